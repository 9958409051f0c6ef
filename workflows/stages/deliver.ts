import { ActivityFailure } from '@temporalio/workflow'
import type { IssuedKey } from '../../activities/keys.ts'
import { lastCause } from '../last-cause.ts'
import { keys, stores, storesAtOnce } from '../proxies.ts'
import type { Rotation } from '../rotation.ts'

const LONGEST_REASON = 500

/**
 * Puts a new key into its client's own store, where it has one, before the client hears of it. While that can not be done, the rotation is
 * held: nobody can claim a key that is to be written.
 */
export async function deliver(rotation: Rotation, newKey: IssuedKey): Promise<void> {
  if (newKey.written !== true) return
  for (;;) {
    const why = await attempt(rotation, () => stores.deliverKey({ ...rotation.by, keyId: newKey.keyId }))
    if (why === undefined) return
    const reason = `the new key could not be written into the client's store: ${why}`.slice(0, LONGEST_REASON)
    await rotation.hold('undelivered', reason, () => rotation.warrant !== undefined)
    // Somebody has said that the old key is to go all the same.
    if (rotation.warrant !== undefined) return giveUp(rotation, newKey, why)
  }
}

/** The same for a client that can not wait, because its old key dies: where the key can not be written at once, it is to be claimed. */
export async function deliverAtOnce(rotation: Rotation, newKey: IssuedKey): Promise<void> {
  if (newKey.written !== true) return
  const why = await attempt(rotation, () => storesAtOnce.deliverKey({ ...rotation.by, keyId: newKey.keyId }))
  if (why !== undefined) await giveUp(rotation, newKey, why)
}

/**
 * The client's store is to have the old key again; nothing waits for it for longer than half a minute.
 * @param options.told whether people know already that it has not
 * @returns whether it has
 */
export async function takeBack(rotation: Rotation, newKey: IssuedKey, { told = false } = {}): Promise<boolean> {
  if (newKey.written !== true) return true
  rotation.takenBack = newKey.keyId
  const why = await attempt(rotation, () => storesAtOnce.takeBackKey({ ...rotation.by, keyId: newKey.keyId }))
  if (why !== undefined && !told)
    await rotation.alert('delivery-failed', `the old key could not be put back: ${why}`.slice(0, LONGEST_REASON))
  return why === undefined
}

/** @returns why it came to nothing */
async function attempt(rotation: Rotation, work: () => Promise<void>): Promise<string | undefined> {
  try {
    await rotation.turns.interruptible(work)
    return undefined
  } catch (error) {
    if (!(error instanceof ActivityFailure)) throw error
    return lastCause(error)
  }
}

async function giveUp(rotation: Rotation, { keyId }: IssuedKey, why: string): Promise<void> {
  if (!(await keys.giveUpDelivery({ ...rotation.by, keyId, why: why.slice(0, LONGEST_REASON) }))) return
  await rotation.alert('delivery-failed', `the new key was not written, and is to be claimed: ${why}`.slice(0, LONGEST_REASON))
}
