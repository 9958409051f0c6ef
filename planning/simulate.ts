/** What a policy will do, told from its credentials as they are: for `policy preview`, and for the tests, by the year. */
import type { PolicyTerms } from '@keyturn/contract'
import { type Due, gapBetweenStarts, spread } from './spread.ts'
import { plannedAt, timingOf } from './timing.ts'
import { angleOf, gapOf, layWaves, waveOf, waveSizes } from './waves.ts'
import { createWheel } from './wheel.ts'

export interface Member {
  /** 0 to 1, from the credential's id. */
  readonly place: number
  /** When its current key was made, in milliseconds of the epoch. */
  readonly createdAt: number
}

export interface SimulatedStart {
  readonly member: number
  readonly at: number
  /** How old the key is then. */
  readonly ageMs: number
  readonly wave: number
}

/**
 * Runs a policy from one time to another, as if every rotation ended well, and calls back for each start.
 * @param stepMs how often the policy is run
 */
export function simulate(
  terms: PolicyTerms,
  members: readonly Member[],
  { from, to, stepMs }: { from: number; to: number; stepMs: number },
  onStart: (start: SimulatedStart) => void,
): void {
  const timing = timingOf(terms)
  const wheel = createWheel({ windowMs: timing.windowMs, blackout: terms.blackout, until: to + timing.windowMs })
  const places = members.map(({ place }) => place).sort((a, b) => a - b)
  const waves = layWaves(waveSizes(terms.waves, members.length), gapOf(terms, timing), (rank) => places[rank] ?? 1)
  interface Planned extends Due {
    readonly member: number
    readonly wave: number
  }
  const steps: Planned[][] = Array.from({ length: Math.ceil((to - from) / stepMs) }, () => [])
  const plan = (member: number, place: number, createdAt: number): void => {
    const wave = waveOf(waves, place)
    const at = plannedAt(wheel, timing, wave === undefined ? place : angleOf(wave, place), createdAt)
    steps[Math.max(0, Math.floor((at - from) / stepMs))]?.push({ member, createdAt, plannedAt: at, wave: wave?.index ?? 0 })
  }
  for (const [member, { place, createdAt }] of members.entries()) plan(member, place, createdAt)

  /** Those whose time has passed, the oldest key last. */
  const late: Planned[] = []
  let next = from
  for (const [i, step] of steps.entries()) {
    const begins = from + i * stepMs
    const gapMs = gapBetweenStarts(terms, members.length, wheel.speedAt(begins))
    const due = [...late.splice(-Math.ceil(stepMs / gapMs) - 1), ...step]
    const starts = spread(due, { from: Math.max(next, begins), until: begins + stepMs, gapMs, wheel })
    const started = new Set(starts.map(({ member }) => member))
    for (const each of due) if (!started.has(each.member)) insert(late, each)
    for (const { member, at, createdAt, wave } of starts) {
      onStart({ member, at, ageMs: at - createdAt, wave })
      next = at + gapMs
      plan(member, members[member]?.place ?? 0, at)
    }
  }
}

function insert(late: Due[], each: Due): void {
  let [low, high] = [0, late.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((late[middle]?.createdAt ?? 0) > each.createdAt) low = middle + 1
    else high = middle
  }
  late.splice(low, 0, each)
}
