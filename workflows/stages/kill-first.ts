import { keys, records } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'

/** How long an emergency waits for a receipt before it goes on. It asks for the rest at its end. */
const MOMENT_MS = 5_000

/**
 * The emergency: the old key dies before anything else, then the client gets its new one. A gateway that is silent delays
 * neither; but the rotation is completed only when every live gateway has confirmed both.
 */
export async function killFirst(rotation: Rotation): Promise<void> {
  const { oldKey } = rotation
  const reason = rotation.turns.last?.reason ?? rotation.request.reason
  await keys.compromiseKey({ ...rotation.by, keyId: oldKey.keyId, reason })
  rotation.oldKeyIs = 'off'
  rotation.entered('deactivating', reason)
  await rotation.published(oldKey.keyId, MOMENT_MS)
  if (rotation.request.trigger !== 'emergency') await records.takeOver({ ...rotation.by, reason })

  if (rotation.newKey === undefined || rotation.newKeyRetired) {
    rotation.newKey = await keys.introduceKey({ ...rotation.by, claimUntil: Date.now() + rotation.policy.overlapMs })
    rotation.newKeyRetired = false
    rotation.entered('introducing')
    await rotation.published(rotation.newKey.keyId, MOMENT_MS)
  }
  await rotation.enter('notifying')
  await rotation.tell('emergency')

  await rotation.propagated(oldKey.keyId)
  await rotation.propagated(rotation.newKey.keyId)
  await rotation.end('completed')
}
