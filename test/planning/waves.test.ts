import { type Policy, termsOf } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { gapBetweenStarts, spread } from '../../planning/spread.ts'
import { sectorsOf } from '../../planning/sweep.ts'
import { plannedAt, timingOf } from '../../planning/timing.ts'
import { angleOf, gapOf, layWaves, placeAt, waveOf, waveSizes } from '../../planning/waves.ts'
import { createWheel, ORIGIN } from '../../planning/wheel.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR

const terms = (policy: Partial<Policy> = {}) => termsOf({ name: 'p', all: true, ...policy })

describe('waves', () => {
  const sizes = (waves: { size: number | string }[], count: number): number[] => waveSizes(terms({ waves }).waves, count)

  test('take what they ask for, or what is left; the last one takes it all', () => {
    expect(sizes([{ size: 1 }, { size: '10%' }, { size: '100%' }], 200)).toEqual([1, 20, 179])
    expect(sizes([{ size: '10%' }, { size: '10%' }], 5)).toEqual([1, 4])
    expect(sizes([{ size: 3 }, { size: 3 }, { size: 3 }], 4)).toEqual([3, 1, 0])
    expect(sizes([{ size: 5 }], 0)).toEqual([0])
    expect(waveSizes(terms().waves, 7)).toEqual([7])
  })

  test('come one after the other on the wheel, with time between them for rotations to end', () => {
    const policy = terms({ period: '30d', overlap: '3d', waves: [{ size: 1 }, { size: '10%' }, { size: '100%' }] })
    const timing = timingOf(policy)
    const waves = layWaves([1, 10, 89], gapOf(policy, timing), (rank) => rank / 100)
    for (const [i, wave] of waves.entries()) {
      const before = waves[i - 1]
      if (before === undefined) continue
      expect((wave.angles[0] - before.angles[1]) * timing.windowMs).toBeGreaterThanOrEqual(3 * DAY + HOUR)
      expect(wave.places[0]).toBe(before.places[1])
    }
    expect([waves[0]?.places, waves.at(-1)?.places[1]]).toEqual([[0, 0.01], 1])
    expect(waves.at(-1)?.angles[1]).toBeCloseTo(1, 9)
  })

  test('hold exactly as many credentials as they should, wherever those stand', () => {
    const places = fc.uniqueArray(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 1, maxLength: 60 })
    fc.assert(
      fc.property(places, fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 5 }), (unsorted, wanted) => {
        const sorted = unsorted.toSorted((a, b) => a - b)
        const counts = waveSizes(
          wanted.map((count) => ({ count })),
          sorted.length,
        )
        const waves = layWaves(counts, 0.1, (rank) => sorted[rank] ?? 1)
        const held = counts.map((_, index) => sorted.filter((place) => waveOf(waves, place)?.index === index).length)
        expect(held).toEqual(counts)
        for (const place of sorted) {
          const wave = waveOf(waves, place)
          if (wave !== undefined) expect(placeAt(wave, angleOf(wave, place))).toBeCloseTo(place, 9)
        }
      }),
    )
  })
})

describe('the sectors that are looked at', () => {
  const BLACKOUT = [{ days: ['sat' as const, 'sun' as const], timeZone: 'America/New_York' }]

  test('hold everyone who is due, whatever has been missed', () => {
    const policy = terms({ period: '30d', overlap: '3d', waves: [{ size: '20%' }, { size: '100%' }] })
    const timing = timingOf(policy)
    const wheel = createWheel({ windowMs: timing.windowMs, blackout: BLACKOUT, until: Date.UTC(2029, 0, 1) })
    const waves = layWaves([20, 80], gapOf(policy, timing), () => 0.2)
    const place = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
    const now = fc.integer({ min: Date.UTC(2026, 3, 1), max: Date.UTC(2028, 0, 1) })
    const age = fc.integer({ min: 0, max: 120 * DAY })
    let seen = 0
    fc.assert(
      fc.property(now, place, age, (until, at, ageMs) => {
        const wave = waveOf(waves, at)
        if (wave === undefined) throw new Error('every place is in a wave')
        const createdAt = until - ageMs
        const isDue = plannedAt(wheel, timing, angleOf(wave, at), createdAt) < until
        const found = sectorsOf(wheel, timing, wave, until).some(
          ({ from, to, madeBy }) => from <= at && at < to && createdAt <= madeBy,
        )
        if (isDue) expect(found).toBe(true)
        if (isDue) seen += 1
      }),
      { numRuns: 2_000 },
    )
    expect(seen).toBeGreaterThan(200)
  })

  test('hold nobody who was rotated when the time came', () => {
    const timing = timingOf(terms())
    const wheel = createWheel({ windowMs: timing.windowMs, blackout: [], until: ORIGIN })
    const [wave] = layWaves([1], 0, () => 1)
    if (wave === undefined) throw new Error('there is a wave')
    for (let i = 0; i < 200; i++) {
      const place = i / 200
      const until = ORIGIN + 400 * DAY
      const last = wheel.timeOf(Math.floor(wheel.turnsAt(until) - place) + place)
      const found = sectorsOf(wheel, timing, wave, until).filter(({ from, to }) => from <= place && place < to)
      expect(found.map(({ madeBy }) => last <= madeBy)).toEqual([false])
    }
  })
})

describe('starts', () => {
  const wheel = createWheel({
    windowMs: 10 * DAY,
    blackout: [{ timeZone: 'UTC', dates: ['2026-06-02'] }],
    until: ORIGIN + 400 * DAY,
  })
  const noon = Date.UTC(2026, 5, 1, 12)

  test('are as planned when there is room, and never closer than the gap', () => {
    const due = [-2, -1, 0, 1, 5].map((hours) => ({ plannedAt: noon + hours * HOUR, createdAt: 0 }))
    const starts = spread(due, { from: noon, until: noon + 6 * HOUR, gapMs: HOUR, wheel })
    expect(starts.map(({ at }) => (at - noon) / HOUR)).toEqual([0, 1, 2, 3, 5])
  })

  test('what does not fit in waits, and nothing is started in a blackout', () => {
    const due = Array.from({ length: 100 }, (_, i) => ({ plannedAt: noon - DAY, createdAt: -i }))
    const starts = spread(due, { from: noon, until: noon + 3 * DAY, gapMs: HOUR, wheel })
    expect(starts.filter(({ at }) => at < noon + 12 * HOUR)).toHaveLength(12)
    expect(starts[12]?.at).toBe(Date.UTC(2026, 5, 3))
    expect(starts).toHaveLength(12 + 36)
    // The oldest keys first.
    expect(starts[0]?.createdAt).toBe(-99)
  })

  test('come at the rate of the policy, else at twice the mean, else at twelve an hour', () => {
    const speed = 1 / (10 * DAY)
    expect(gapBetweenStarts(terms({ rate: '2/m' }), 1_000_000, speed)).toBe(30_000)
    expect(HOUR / gapBetweenStarts(terms(), 240_000, speed)).toBeCloseTo(2_000, 6)
    expect(HOUR / gapBetweenStarts(terms(), 3, speed)).toBe(12)
  })
})
