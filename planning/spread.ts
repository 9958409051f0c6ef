/** When each of those that are due is started: as planned, but never too many at once. */
import type { PolicyTerms } from '@keyturn/contract'
import type { Wheel } from './wheel.ts'

const HOUR = 3_600_000
/** A policy that names no rate starts twice as many as it has to, so that it catches up; or this many an hour, when that is more. */
const LEAST_PER_HOUR = 12

/** The least time between two starts, in milliseconds. */
export function gapBetweenStarts({ startsPerHour }: Pick<PolicyTerms, 'startsPerHour'>, count: number, speed: number): number {
  return HOUR / (startsPerHour ?? Math.max(LEAST_PER_HOUR, 2 * count * speed * HOUR))
}

export interface Due {
  readonly plannedAt: number
  /** When its key was made. */
  readonly createdAt: number
}

/**
 * Gives each its time. Of those whose time has come already, the one with the oldest key is first.
 * @param from when the first may be started
 * @returns those that can be started before `until`; the others wait for the next time
 */
export function spread<T extends Due>(
  due: readonly T[],
  { from, until, gapMs, wheel }: { from: number; until: number; gapMs: number; wheel: Wheel },
): (T & { readonly at: number })[] {
  const readyAt = ({ plannedAt }: Due): number => Math.max(plannedAt, from)
  const starts: (T & { readonly at: number })[] = []
  let next = from
  for (const each of due.toSorted((a, b) => readyAt(a) - readyAt(b) || a.createdAt - b.createdAt)) {
    const at = Math.floor(wheel.openFrom(Math.max(next, each.plannedAt)))
    if (at >= until) break
    starts.push({ ...each, at })
    next = at + gapMs
  }
  return starts
}
