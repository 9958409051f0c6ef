/** From the messages of the keys topic into the cache. A message that is no good is counted, logged and skipped, never a crash. */
import { decodeKeyEvent, isKeyId } from '@keyturn/contract'
import type { KeyCache } from './key-cache.ts'
import { createThrottle, type Log } from './log.ts'

export const SKIP_REASONS = [
  'not-json',
  'not-an-event',
  'wrong-key',
  'same-revision',
  'older-revision',
  'destroyed-key',
  'verifier-taken',
  'failed',
] as const
export type SkipReason = (typeof SKIP_REASONS)[number]

/** Ordinary after a replay or a republish; the others say that somebody wrote what must not be there. */
const ORDINARY: readonly SkipReason[] = ['same-revision', 'older-revision', 'destroyed-key']

export interface KeyMessage {
  readonly partition: number
  readonly offset: number
  readonly key: Buffer | null
  /** Nothing is a tombstone. */
  readonly value: Buffer | null
}

export interface KeyMessages {
  /** Returns why a message was skipped, or nothing when it is in the cache now. */
  apply(message: KeyMessage): SkipReason | undefined
  readonly applied: number
  readonly skipped: ReadonlyMap<SkipReason, number>
}

function read(cache: KeyCache, message: KeyMessage): SkipReason | undefined {
  const key = message.key?.toString('utf8') ?? ''
  if (message.value === null) {
    if (!isKeyId(key)) return 'wrong-key'
    return cache.destroy(key) ? undefined : 'destroyed-key'
  }
  const decoded = decodeKeyEvent(message.value)
  if (!decoded.ok) return decoded.flaw
  const record = decoded.event.data
  if (record.keyId !== key || decoded.event.subject !== key) return 'wrong-key'
  const outcome = cache.apply(record)
  return outcome === 'applied' ? undefined : outcome
}

export function createKeyMessages(cache: KeyCache, log: Log): KeyMessages {
  const skipped = new Map<SkipReason, number>(SKIP_REASONS.map((reason) => [reason, 0]))
  const throttle = createThrottle()
  let applied = 0
  return {
    skipped,
    get applied() {
      return applied
    },
    apply(message) {
      let reason: SkipReason | undefined
      try {
        reason = read(cache, message)
      } catch {
        // What was thrown may quote the message, and a message may hold anything.
        reason = 'failed'
      }
      if (reason === undefined) {
        applied += 1
        return undefined
      }
      const why = reason
      skipped.set(why, (skipped.get(why) ?? 0) + 1)
      const where = { reason: why, partition: message.partition, offset: message.offset }
      if (ORDINARY.includes(why)) log.debug(where, 'key event skipped: nothing new in it')
      else throttle(why, (heldBack) => log.error({ ...where, alsoSkipped: heldBack }, 'message on the keys topic skipped'))
      return why
    },
  }
}
