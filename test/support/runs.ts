/** How often a test of chance runs, and from which seed: KEYTURN_TEST_LONG=1 for many, KEYTURN_TEST_SEED to see a failure again. */
export interface Runs {
  readonly count: number
  readonly seed: number
  /** For the test's name, so that a report tells both. */
  readonly text: string
}

export const LONG = process.env['KEYTURN_TEST_LONG'] === '1'

export function runsOf({ few, many }: { few: number; many: number }): Runs {
  const count = LONG ? many : few
  const given = process.env['KEYTURN_TEST_SEED']
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given)
  return { count, seed, text: `${count} runs, seed ${seed}` }
}

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
