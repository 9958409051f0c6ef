import { keys } from '../proxies.ts'
import type { Rotation, Warrant } from '../rotation.ts'

/**
 * Switches the old key off. The evidence is looked at once more in the transaction itself; when it has changed meanwhile,
 * nothing happens.
 * @returns whether it is off; false sends the rotation back to monitoring
 */
export async function switchOff(rotation: Rotation, warrant: Warrant | undefined): Promise<boolean> {
  const { oldKey, by } = rotation
  rotation.turns.breakOff()
  rotation.oldKeyIs = 'going'
  let off = false
  try {
    const result = await keys.deactivateKey({
      ...by,
      keyId: oldKey.keyId,
      actor: warrant?.actor ?? by.actor,
      reason: warrant?.reason ?? 'the new key is in use, and the old one has been quiet for the quiet period',
      unless: warrant === undefined ? 'used' : 'never',
    })
    off = result.deactivated
  } finally {
    rotation.oldKeyIs = off ? 'off' : 'accepted'
  }
  if (off) rotation.entered('deactivating', warrant?.reason)
  return off
}

/** Waits until every live gateway refuses the old key, then watches for regret: the collector tells of it, and turns the rotation back. */
export async function finish(rotation: Rotation): Promise<void> {
  const { oldKey, policy } = rotation
  await rotation.enter('deactivating')
  await rotation.propagated(oldKey.keyId)
  if (policy.regretWindowMs > 0) await rotation.turns.wait(() => false, Date.now() + policy.regretWindowMs)
  await rotation.tell('deactivated')
  await rotation.end('completed')
}
