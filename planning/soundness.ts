/** What a policy promises and can not keep: refused where it could never do anything, and said loudly where it will be late. */
import { type FieldFlaw, formatDuration, type PolicyTerms } from '@keyturn/contract'
import { closedSpans } from './blackouts.ts'
import { timingOf } from './timing.ts'
import { gapOf, MOST_GAP } from './waves.ts'
import { createWheel } from './wheel.ts'

const DAY = 86_400_000
/** So far ahead blackouts are looked at. */
const AHEAD_MS = 400 * DAY

/** Why the policy can not be used from a time on. */
export function impossible({ blackout }: PolicyTerms, from: number): FieldFlaw[] {
  const [only, ...more] = closedSpans(blackout, { from, to: from + AHEAD_MS })
  if (only === undefined || more.length > 0 || only.from > from || only.to < from + AHEAD_MS) return []
  return [{ path: '/blackout', message: 'covers every hour there is: no rotation could ever be started' }]
}

/** What people should know before they use it. */
export function warnings(terms: PolicyTerms, from: number, count?: number): string[] {
  const timing = timingOf(terms)
  const { periodMs, rotation, waves, concurrency, startsPerHour } = terms
  const said: string[] = []
  const wheel = createWheel({ windowMs: timing.windowMs, blackout: terms.blackout, until: from + AHEAD_MS })
  const tight = wheel.tooTight(from)
  if (tight !== undefined && tight.from < from + AHEAD_MS) {
    said.push(
      `the blackouts leave too little time around ${dayText((tight.from + tight.to) / 2)}: some keys will get older than ${formatDuration(periodMs)}`,
    )
  }
  if (rotation.overlapMs > periodMs / 2) {
    said.push(
      `the overlap of ${formatDuration(rotation.overlapMs)} is more than half of the period: a key may come of age before it is the current one`,
    )
  }
  if ((waves.length - 1) * gapOf(terms, timing) > MOST_GAP) {
    said.push(
      `${waves.length} waves, each after the one before has ended, may take longer than the period leaves: keys may get older than ${formatDuration(periodMs)}`,
    )
  }
  if (count === undefined || count === 0) return said
  const needed = count / (timing.windowMs / 3_600_000)
  if (startsPerHour !== undefined && startsPerHour < needed) {
    said.push(
      `at this rate ${count} credentials take ${formatDuration(roughly((count / startsPerHour) * 3_600_000))}: ${Math.ceil(needed)} an hour are needed to keep the period`,
    )
  }
  const openAtOnce = Math.ceil((count * rotation.overlapMs) / timing.windowMs)
  if (concurrency !== undefined && concurrency < openAtOnce) {
    said.push(
      `with ${count} credentials up to ${openAtOnce} rotations are open at once when clients use the whole overlap; with ${concurrency} at most keys may get older than ${formatDuration(periodMs)}`,
    )
  }
  return said
}

const dayText = (at: number): string => new Date(at).toISOString().slice(0, 10)
const roughly = (ms: number): number => Math.ceil(ms / 3_600_000) * 3_600_000
