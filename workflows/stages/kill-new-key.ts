import { patched } from '@temporalio/workflow'
import type { IssuedKey } from '../../activities/keys.ts'
import { keys } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'
import { takeBack } from './deliver.ts'

/**
 * The new key has leaked: it dies at once, and the rotation goes on as if it had issued none. The old key, when it is sound, is
 * what the client works with until another new one is in use; it comes back for that when it had been switched off, and
 * into its client's store.
 */
export async function killNewKey(rotation: Rotation): Promise<void> {
  const { leaks, oldKey, newKey, emergency } = rotation
  const leak = leaks.newKeyLeak
  if (leak === undefined) return
  await keys.killNewKey({ ...rotation.by, actor: leak.actor, reason: leak.reason, keyId: leak.keyId })
  rotation.lostNewKey()
  await rotation.published(leak.keyId)
  if (emergency) return
  await rotation.published(oldKey.keyId)
  if (newKey?.written === true && patched('leaked-key-out-of-the-store')) await takeBack(rotation, newKey)
}

/**
 * An emergency comes while the rotation is going back: the client's store may have the old key alone by now, and nobody can write the new one
 * again, for its secret is gone. The rotation goes on as if it had issued none.
 * @returns the key that was given up
 */
export async function killTakenBack(rotation: Rotation): Promise<IssuedKey | undefined> {
  const { newKey, newKeyId, takenBack } = rotation
  if (newKeyId === undefined || newKeyId !== takenBack || !patched('taken-back-key-replaced')) return undefined
  const reason = 'a roll-back had begun to take it out of the store of its client'
  await keys.killNewKey({ ...rotation.by, keyId: newKeyId, reason })
  rotation.lostNewKey()
  return newKey
}
