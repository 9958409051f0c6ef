import { keys } from '../proxies.ts'
import type { Rotation, Warrant } from '../rotation.ts'

/**
 * Switches the old key off, waits for the receipt from every live gateway, and watches for regret.
 * The evidence is looked at once more in the transaction itself; when it has changed meanwhile, nothing happens.
 * @returns whether the rotation is done; false sends it back to monitoring
 */
export async function deactivate(rotation: Rotation, warrant: Warrant | undefined): Promise<boolean> {
  const { oldKey, policy, by } = rotation
  const result = await keys.deactivateKey({
    ...by,
    keyId: oldKey.keyId,
    actor: warrant?.actor ?? by.actor,
    reason: warrant?.reason ?? 'the new key is in use, and the old one has been quiet for the quiet period',
    unless: warrant === undefined ? 'used' : 'never',
  })
  if (!result.deactivated) return false
  rotation.entered('deactivating', warrant?.reason)
  await rotation.propagated(oldKey.keyId)

  const refused = () => rotation.facts.has('old-key-refused')
  if (policy.regretWindowMs > 0 && (await rotation.wait(refused, Date.now() + policy.regretWindowMs))) {
    rotation.giveUp('the old key is still asked for after it was deactivated')
  }
  await rotation.tell('deactivated')
  await rotation.enter('completed')
  return true
}
