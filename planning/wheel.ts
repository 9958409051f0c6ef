/**
 * A policy's wheel. Each of its credentials has a fixed place on it and is rotated when its place comes round. The wheel turns
 * once within `windowMs` at least, whenever that begins, and only while the policy's blackouts are open: before long closures it
 * turns faster. So the load is even over the open hours, and no key waits longer than a turn.
 */
import type { Blackout } from '@keyturn/contract'
import { closedSpans, type Span } from './blackouts.ts'

/** When all wheels stood at 0. Fixed for ever: places come round at the same times after a restart, and over the turn of a year. */
export const ORIGIN = Date.UTC(2026, 0, 1)
/** Into so many blocks a window is divided; within a block the wheel turns evenly. */
const BLOCKS = 64
/** A wheel does not turn faster than this many times its usual speed, even if that makes keys older than the policy wants. */
const FASTEST = 3

export interface Wheel {
  /** How many turns it has made at a time. */
  turnsAt(at: number): number
  /** The open moment at which it has made so many turns, or the last one before. */
  timeOf(turns: number): number
  /** How fast it turns while it is open, in turns per millisecond. */
  speedAt(at: number): number
  /** The time itself, or the end of the blackout that it lies in. */
  openFrom(at: number): number
  /** The first window from `from` on with so little open time in it that not all keys will be rotated in time. */
  tooTight(from: number): Span | undefined
}

/** @param until up to when it is asked; a little beyond it the wheel ends */
export function createWheel({
  windowMs,
  blackout,
  until,
}: {
  windowMs: number
  blackout: readonly Blackout[]
  until: number
}): Wheel {
  const range = { from: ORIGIN, to: Math.max(until, ORIGIN) + 3 * windowMs }
  const closed = closedSpans(blackout, range)
  return closed.length === 0 ? evenWheel(windowMs) : unevenWheel(windowMs, closed, range.to)
}

const evenWheel = (windowMs: number): Wheel => ({
  turnsAt: (at) => Math.max(0, at - ORIGIN) / windowMs,
  timeOf: (turns) => ORIGIN + Math.floor(turns * windowMs),
  speedAt: () => 1 / windowMs,
  openFrom: (at) => at,
  tooTight: () => undefined,
})

function unevenWheel(windowMs: number, closed: readonly Span[], end: number): Wheel {
  const open = openTime(closed)
  const blockMs = windowMs / BLOCKS
  const blocks = Math.ceil((end - ORIGIN) / blockMs)
  const edge = (block: number): number => ORIGIN + block * blockMs
  /** Open time before each block. */
  const before = Float64Array.from({ length: blocks + 1 }, (_, block) => open.until(edge(block)))
  const between = (from: number, to: number): number => (before[to] ?? 0) - (before[from] ?? 0)
  /** Of windows that begin in a block: the open time that each of them has at least. */
  const least = Float64Array.from({ length: blocks - BLOCKS }, (_, block) => between(block + 1, block + BLOCKS))
  const slowest = slidingMinimum(least, BLOCKS)
  const speeds = Float64Array.from(
    { length: blocks - BLOCKS },
    (_, block) => 1 / Math.max(slowest[block] ?? 0, windowMs / FASTEST),
  )
  const turns = new Float64Array(speeds.length + 1)
  for (let block = 0; block < speeds.length; block++)
    turns[block + 1] = (turns[block] ?? 0) + (speeds[block] ?? 0) * between(block, block + 1)

  const blockAt = (at: number): number => {
    const block = Math.floor((Math.max(at, ORIGIN) - ORIGIN) / blockMs)
    if (block >= speeds.length)
      throw new RangeError(`the wheel was made for times before ${new Date(edge(speeds.length)).toISOString()}`)
    return block
  }
  return {
    turnsAt(at) {
      const block = blockAt(at)
      return (turns[block] ?? 0) + (speeds[block] ?? 0) * (open.until(Math.max(at, ORIGIN)) - (before[block] ?? 0))
    },
    timeOf(count) {
      const block = firstIndex(turns, (made) => made >= count) - 1
      if (block >= speeds.length) throw new RangeError('the wheel was not made for times so late')
      if (block < 0) return open.from(ORIGIN)
      return open.at((before[block] ?? 0) + (count - (turns[block] ?? 0)) / (speeds[block] ?? 1))
    },
    speedAt: (at) => speeds[blockAt(at)] ?? 0,
    openFrom: (at) => open.from(at),
    tooTight(from) {
      for (let block = blockAt(from); block < least.length; block++) {
        if ((least[block] ?? 0) < windowMs / FASTEST) return { from: edge(block), to: edge(block + BLOCKS) }
      }
      return undefined
    },
  }
}

const ROUNDED_MS = 0.5

/** Counts time as it passes outside of the closed stretches. */
function openTime(closed: readonly Span[]) {
  /** Closed time before each stretch, and the open time at which each begins. */
  const closedBefore = new Float64Array(closed.length + 1)
  for (const [i, { from, to }] of closed.entries()) closedBefore[i + 1] = (closedBefore[i] ?? 0) + to - Math.max(from, ORIGIN)
  const openBefore = Float64Array.from(closed, ({ from }, i) => Math.max(0, from - ORIGIN - (closedBefore[i] ?? 0)))
  const spanAt = (at: number): Span | undefined => {
    const span = closed[firstIndex(closed, ({ to }) => to > at)]
    return span !== undefined && span.from <= at ? span : undefined
  }
  return {
    /** From the origin until a time. */
    until(at: number): number {
      const i = firstIndex(closed, ({ to }) => to > at)
      const passed = at - ORIGIN - (closedBefore[i] ?? 0)
      return Math.min(passed, openBefore[i] ?? passed)
    },
    /** When so much has passed; the moment before, where a closed stretch begins then, give or take what was rounded. */
    at(passed: number): number {
      const i = firstIndex(openBefore, (beginsAt) => beginsAt >= passed - ROUNDED_MS)
      const at = ORIGIN + Math.floor(passed + (closedBefore[i] ?? 0))
      const span = spanAt(at)
      return span === undefined ? at : span.from - 1
    },
    from: (at: number): number => spanAt(at)?.to ?? at,
  }
}

/** The first for which something holds that then holds for all after it; the length when it holds for none. */
function firstIndex<T>(list: ArrayLike<T>, holds: (value: T) => boolean): number {
  let [low, high] = [0, list.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if (holds(list[middle] as T)) high = middle
    else low = middle + 1
  }
  return low
}

/** For each index the least of the values from `reach` before it up to it. */
function slidingMinimum(values: Float64Array, reach: number): Float64Array {
  const queue: number[] = []
  let head = 0
  return values.map((value, i) => {
    while (queue.length > head && (values[queue.at(-1) ?? 0] ?? 0) >= value) queue.pop()
    queue.push(i)
    if ((queue[head] ?? 0) < i - reach) head++
    return values[queue[head] ?? 0] ?? 0
  })
}
