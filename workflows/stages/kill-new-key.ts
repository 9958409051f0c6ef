import { patched } from '@temporalio/workflow'
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
