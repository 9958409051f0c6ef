/** A value that a part `q` (0 to 1) of all values does not exceed: the nearest rank, never one that was not measured. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const value = sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]
  if (value === undefined) throw new RangeError('there is no quantile of nothing')
  return value
}

export const median = (values: readonly number[]): number => quantile(values, 0.5)

/** A generator of the same numbers in every run, 0 to 1 (mulberry32): the order of a measurement is no secret. */
export function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

export interface Distribution {
  readonly samples: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

export const distribution = (values: readonly number[]): Distribution => ({
  samples: values.length,
  p50: quantile(values, 0.5),
  p90: quantile(values, 0.9),
  p99: quantile(values, 0.99),
  max: quantile(values, 1),
})
