import type { Blackout } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { closedSpans } from '../../planning/blackouts.ts'
import { plannedAt, timingOf } from '../../planning/timing.ts'
import { createWheel, ORIGIN, type Wheel } from '../../planning/wheel.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const END = Date.UTC(2029, 0, 1)

const WEEKENDS: Blackout = { days: ['sat', 'sun'], timeZone: 'America/New_York' }
const TRADING_HOURS: Blackout = {
  days: ['mon', 'tue', 'wed', 'thu', 'fri'],
  from: '09:30',
  to: '16:00',
  timeZone: 'America/New_York',
}
const YEAR_END: Blackout = { dates: ['2026-12-20/2027-01-03', '2027-12-20/2028-01-02'], timeZone: 'Europe/Zurich' }
const LEAP_DAY: Blackout = { dates: ['02-29'], timeZone: 'UTC' }

const policies = fc.record({
  periodMs: fc.integer({ min: 7, max: 180 }).map((days) => days * DAY),
  overlap: fc.double({ min: 0.05, max: 0.5, noNaN: true }),
  blackout: fc.subarray([WEEKENDS, TRADING_HOURS, YEAR_END, LEAP_DAY]),
})
const wheels = policies.map(({ periodMs, overlap, blackout }) => {
  const timing = timingOf({ periodMs, rotation: { overlapMs: periodMs * overlap } as never })
  const wheel = createWheel({ windowMs: timing.windowMs, blackout, until: END })
  return { periodMs, overlapMs: periodMs * overlap, blackout, timing, wheel }
})
const moment = fc.double({ min: 0, max: 1, noNaN: true }).map((part) => Math.floor(ORIGIN + part * (END - ORIGIN)))

/** Whether the wheel keeps its word in a window that begins then. */
const isSound = (wheel: Wheel, windowMs: number, at: number): boolean => {
  const tight = wheel.tooTight(Math.max(ORIGIN, at - windowMs))
  return tight === undefined || tight.from > at + 2 * windowMs
}

describe('a wheel', () => {
  test('turns once at least in every window, whenever it begins', () => {
    fc.assert(
      fc.property(wheels, fc.array(moment, { minLength: 10, maxLength: 10 }), ({ wheel, timing }, moments) => {
        for (const at of moments) {
          if (!isSound(wheel, timing.windowMs, at)) continue
          expect(wheel.turnsAt(at + timing.windowMs) - wheel.turnsAt(at)).toBeGreaterThanOrEqual(1 - 1e-9)
        }
      }),
      { numRuns: 60 },
    )
  })

  test('stands still while the blackouts are closed, and turns while they are open', () => {
    fc.assert(
      fc.property(wheels, moment, ({ wheel, blackout }, at) => {
        const [span] = closedSpans(blackout, { from: at, to: at + 8 * DAY })
        if (span === undefined) return
        const from = Math.max(span.from, ORIGIN)
        expect(wheel.turnsAt(span.to)).toBeCloseTo(wheel.turnsAt(from), 9)
        expect(wheel.turnsAt(span.to + HOUR / 2)).toBeGreaterThan(wheel.turnsAt(span.to))
        expect(wheel.openFrom((from + span.to) / 2)).toBe(span.to)
      }),
      { numRuns: 60 },
    )
  })

  test('is asked both ways: an open moment is found again', () => {
    fc.assert(
      fc.property(wheels, moment, ({ wheel }, at) => {
        const found = wheel.timeOf(wheel.turnsAt(at))
        expect(wheel.openFrom(found)).toBe(found)
        if (wheel.openFrom(at) === at) expect(Math.abs(found - at)).toBeLessThanOrEqual(2)
        else expect(found).toBeLessThan(at)
      }),
      { numRuns: 100 },
    )
  })

  test('what comes round when a blackout begins comes before it, not after', () => {
    const windowMs = timingOf({ periodMs: 77 * DAY, rotation: { overlapMs: 705_209_779.128142 } as never }).windowMs
    const wheel = createWheel({ windowMs, blackout: [WEEKENDS, TRADING_HOURS], until: END })
    for (const { from } of closedSpans([WEEKENDS, TRADING_HOURS], { from: ORIGIN + DAY, to: END }))
      expect(wheel.timeOf(wheel.turnsAt(from))).toBeLessThan(from)
  })

  test('a turn is as long with blackouts that are made later as with those made earlier: it does not depend on how far it is asked', () => {
    const near = createWheel({ windowMs: 30 * DAY, blackout: [WEEKENDS, YEAR_END], until: Date.UTC(2027, 0, 1) })
    const far = createWheel({ windowMs: 30 * DAY, blackout: [WEEKENDS, YEAR_END], until: Date.UTC(2030, 0, 1) })
    for (let at = ORIGIN; at < Date.UTC(2027, 0, 1); at += 13 * HOUR) expect(near.turnsAt(at)).toBeCloseTo(far.turnsAt(at), 9)
  })

  test('before a long closure it turns faster, and long after it as fast as ever', () => {
    const wheel = createWheel({ windowMs: 30 * DAY, blackout: [YEAR_END], until: END })
    expect(wheel.speedAt(Date.UTC(2026, 11, 10)) / wheel.speedAt(Date.UTC(2026, 6, 1))).toBeGreaterThan(1.5)
    expect(wheel.speedAt(Date.UTC(2027, 5, 1))).toBe(wheel.speedAt(Date.UTC(2026, 6, 1)))
  })

  test('says when there is too little time: a closure that is longer than a turn', () => {
    const wheel = createWheel({ windowMs: 12 * DAY, blackout: [YEAR_END], until: END })
    const tight = wheel.tooTight(ORIGIN)
    expect(new Date(tight?.from ?? 0).toISOString().slice(0, 7)).toBe('2026-12')
    expect(createWheel({ windowMs: 60 * DAY, blackout: [YEAR_END, WEEKENDS], until: END }).tooTight(ORIGIN)).toBeUndefined()
  })
})

test('no key is older than its period when its overlap ends; none is planned in a blackout; a fresh one is left alone', () => {
  const angle = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
  fc.assert(
    fc.property(wheels, fc.array(fc.tuple(moment, angle), { minLength: 10, maxLength: 10 }), (policy, keys) => {
      const { wheel, timing, periodMs, overlapMs } = policy
      for (const [createdAt, place] of keys) {
        const planned = plannedAt(wheel, timing, place, createdAt)
        expect(wheel.openFrom(planned)).toBe(planned)
        expect(planned).toBeGreaterThanOrEqual(createdAt + timing.youngestMs - 1)
        if (isSound(wheel, timing.windowMs, createdAt + timing.youngestMs))
          expect(planned + overlapMs).toBeLessThan(createdAt + periodMs)
      }
    }),
    { numRuns: 100 },
  )
})
