import { patched } from '@temporalio/workflow'
import { keys, records } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'
import { deliverAtOnce } from './deliver.ts'
import { killTakenBack } from './kill-new-key.ts'

/**
 * The emergency: the old key dies before anything else, then the client gets its new one. A gateway that is silent delays
 * neither for more than a moment; but the rotation is completed only when every live gateway has confirmed both. A new key that two
 * have claimed goes with the old one: whoever had stolen that may have it.
 */
export async function killFirst(rotation: Rotation): Promise<void> {
  const { oldKey } = rotation
  const reason = rotation.turns.last?.reason ?? rotation.request.reason
  // A history from before there were fleet rollovers has no answer here.
  const killed: { newKeyLost: boolean } | undefined = await keys.compromiseKey({
    ...rotation.by,
    keyId: oldKey.keyId,
    reason,
    disputed: 'too',
  })
  const lost = killed?.newKeyLost === true && patched('lost-new-key-receipt') ? rotation.newKey : undefined
  if (killed?.newKeyLost) rotation.newKeyRetired = true
  rotation.oldKeyIs = 'off'
  rotation.entered('deactivating', reason)
  await rotation.published(oldKey.keyId)
  if (lost !== undefined) await rotation.published(lost.keyId)
  const { takenOver, request } = rotation
  if (takenOver !== undefined && takenOver !== request.trigger)
    await records.takeOver({ ...rotation.by, reason, trigger: takenOver })

  const gone = lost ?? (await killTakenBack(rotation))
  let { newKey } = rotation
  if (newKey === undefined || rotation.newKeyRetired) {
    newKey = await keys.introduceKey({ ...rotation.by, claimUntil: rotation.claimUntil })
    rotation.introduced(newKey)
    rotation.graced = false
    rotation.entered('introducing')
    await rotation.published(newKey.keyId)
  }
  if (rotation.graced) await rotation.tell('deactivated')
  else {
    await rotation.enter('notifying')
    await deliverAtOnce(rotation, newKey)
    await rotation.tell('emergency')
  }

  await rotation.propagated(oldKey.keyId)
  if (gone !== undefined) await rotation.propagated(gone.keyId)
  await rotation.propagated(newKey.keyId)
  await rotation.end('completed')
}
