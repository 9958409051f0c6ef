import { keys } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'
import { takeBack } from './deliver.ts'

/** Goes back to the old key. It is accepted again everywhere before the new one is refused anywhere. */
export async function rollBack(rotation: Rotation): Promise<void> {
  const { oldKey, newKey } = rotation
  const reason = rotation.turns.last?.reason ?? 'rolled back'
  const { reinstated } = await keys.reinstateKey({ ...rotation.by, keyId: oldKey.keyId, reason })
  if (!reinstated) {
    rotation.takeOver('the old key was compromised meanwhile: the rotation rolls forward', 'keyturn')
    rotation.turns.breakOff()
  }
  rotation.oldKeyIs = 'accepted'
  rotation.entered('rolling-back', reason)
  await rotation.appliedEverywhere(oldKey.keyId)
  if (newKey !== undefined) {
    await takeBack(rotation, newKey)
    await keys.retireNewKey({ ...rotation.by, reason })
    rotation.newKeyRetired = true
    await rotation.appliedEverywhere(newKey.keyId)
  }
  await rotation.alert('rolled-back', reason)
  await rotation.tell('rolled-back')
  await rotation.end('rolled-back', reason)
}
