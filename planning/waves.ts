/**
 * A policy's waves on its wheel. A credential's place (0 to 1, from its id) says which wave it is in; the wheel's angles leave a gap
 * after each wave, long enough for its rotations to end before the next one begins.
 */
import type { PolicyTerms, WaveSize } from '@keyturn/contract'
import type { Timing } from './timing.ts'

export interface Wave {
  /** 0 is the first. */
  readonly index: number
  /** How many credentials are in it. */
  readonly size: number
  /** Its places and its angles: from (included) to (not included). */
  readonly places: readonly [from: number, to: number]
  readonly angles: readonly [from: number, to: number]
}

/** How many credentials each wave has; the last one takes what is left. */
export function waveSizes(waves: readonly WaveSize[], count: number): number[] {
  let left = count
  return waves.map((wave, i) => {
    const wanted = 'count' in wave ? wave.count : Math.ceil(wave.share * count)
    const size = i === waves.length - 1 ? left : Math.min(wanted, left)
    left -= size
    return size
  })
}

/** What of a turn lies between two waves: time for rotations to end, or to be held. */
export function gapOf({ rotation }: Pick<PolicyTerms, 'rotation'>, { windowMs }: Timing): number {
  return (rotation.overlapMs + rotation.regretWindowMs + rotation.receiptWaitMs) / windowMs
}

/** Gaps take no more than this part of a turn; when they would, they are made shorter. */
export const MOST_GAP = 0.5

/**
 * @param sizes from `waveSizes`; waves without a credential are left out
 * @param placeOfRank the place of the credential that stands at a rank (0 is the first) when all are ordered by place
 */
export function layWaves(sizes: readonly number[], gap: number, placeOfRank: (rank: number) => number): Wave[] {
  const filled = sizes.map((size, index) => ({ size, index })).filter(({ size }) => size > 0)
  const gaps = filled.length - 1
  const space = gaps === 0 ? 0 : Math.min(gap, MOST_GAP / gaps)
  const scale = 1 - gaps * space
  let rank = 0
  let from = 0
  return filled.map(({ index, size }, i) => {
    rank += size
    const to = i === gaps ? 1 : placeOfRank(rank)
    const wave: Wave = {
      index,
      size,
      places: [from, to],
      angles: [from * scale + i * space, to * scale + i * space],
    }
    from = to
    return wave
  })
}

/** Between places and angles of a wave. */
export function angleOf({ places, angles }: Wave, place: number): number {
  const width = places[1] - places[0]
  return width === 0 ? angles[0] : angles[0] + ((place - places[0]) / width) * (angles[1] - angles[0])
}

export function placeAt({ places, angles }: Wave, angle: number): number {
  const width = angles[1] - angles[0]
  return width === 0 ? places[0] : places[0] + ((angle - angles[0]) / width) * (places[1] - places[0])
}

export const waveOf = (waves: readonly Wave[], place: number): Wave | undefined => waves.find(({ places }) => place < places[1])
