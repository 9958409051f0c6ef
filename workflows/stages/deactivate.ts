import { keys } from '../proxies.ts'
import type { Rotation, Warrant } from '../rotation.ts'

/**
 * Switches the old key off. The evidence is looked at once more in the transaction itself; when it has changed meanwhile,
 * nothing happens.
 * @returns whether it is off; false sends the rotation back to monitoring
 */
export async function switchOff(rotation: Rotation, warrant: Warrant | undefined): Promise<boolean> {
  const { oldKey, by, leaks } = rotation
  rotation.turns.breakOff()
  rotation.oldKeyIs = 'going'
  let off = false
  try {
    const what = { ...by, keyId: oldKey.keyId, actor: warrant?.actor ?? by.actor }
    const reason = warrant?.reason ?? 'the new key is in use, and the old one has been quiet for the quiet period'
    if (leaks.oldKeyDiesAt !== undefined) {
      // A leaked key does not rest deactivated: whatever is asked later, it does not come back.
      await keys.compromiseKey({ ...what, reason: `${reason}; it has leaked` })
      off = true
    } else {
      const unless = warrant === undefined ? 'used' : 'never'
      off = (await keys.deactivateKey({ ...what, reason, unless })).deactivated
    }
  } finally {
    rotation.oldKeyIs = off ? 'off' : 'accepted'
  }
  if (off) rotation.entered('deactivating', warrant?.reason)
  return off
}

/** Waits until every live gateway refuses the old key, then watches for regret: the collector tells of it, and turns the rotation back. */
export async function finish(rotation: Rotation): Promise<void> {
  const { oldKey, policy, leaks } = rotation
  await rotation.enter('deactivating')
  await rotation.propagated(oldKey.keyId)
  const regretted = policy.regretWindowMs > 0 && leaks.oldKeyDiesAt === undefined
  if (regretted) await rotation.turns.wait(() => false, Date.now() + policy.regretWindowMs)
  await rotation.tell('deactivated')
  await rotation.end('completed')
}
