/** Which places of a wave to look at for credentials that are due, so that an index finds them and passes over all others. */
import type { Timing } from './timing.ts'
import { placeAt, type Wave } from './waves.ts'
import type { Wheel } from './wheel.ts'

/** Credentials with a place from `from` (included) to `to` (not included) are due when their key was made at `madeBy` or before; a few more may be found. */
export interface Sector {
  readonly from: number
  readonly to: number
  readonly madeBy: number
}

/** Into so many sectors a whole turn is divided: within one, places come round at about the same time. */
const SECTORS = 64

/** The sectors of the last turn before `until`, those first whose time has been longest ago. */
export function sectorsOf(wheel: Wheel, { youngestMs }: Timing, wave: Wave, until: number): Sector[] {
  const made = wheel.turnsAt(until)
  const cycle = Math.floor(made)
  const [first, last] = wave.angles
  const middle = Math.min(Math.max(made - cycle, first), last)
  return [
    ...split(middle, last).map((part) => ({ ...part, turn: cycle - 1 })),
    ...split(first, middle).map((part) => ({ ...part, turn: cycle })),
  ]
    .filter(({ turn, to }) => turn + to > 0)
    .map(({ from, to, turn }) => ({
      from: placeAt(wave, from),
      to: placeAt(wave, to),
      madeBy: wheel.timeOf(turn + to) - youngestMs,
    }))
}

function split(from: number, to: number): { from: number; to: number }[] {
  const parts = Math.ceil((to - from) * SECTORS)
  return Array.from({ length: parts }, (_, i) => ({
    from: from + ((to - from) * i) / parts,
    to: i === parts - 1 ? to : from + ((to - from) * (i + 1)) / parts,
  }))
}
