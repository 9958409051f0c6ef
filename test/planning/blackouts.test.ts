import { type Blackout, DAY_NAMES } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { closedSpans } from '../../planning/blackouts.ts'
import { dayOf, localDayAt, monthAndDayOf, offsetAt, weekdayOf } from '../../planning/local-time.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const MINUTE = 60_000

/** The closed stretches of a range of days, as text. */
const closed = (blackout: Blackout | Blackout[], from: string, to: string): string[] =>
  closedSpans([blackout].flat(), { from: Date.parse(`${from}Z`), to: Date.parse(`${to}Z`) }).map(
    (span) => `${new Date(span.from).toISOString().slice(0, 16)} ${(span.to - span.from) / HOUR}h`,
  )

describe('a blackout', () => {
  const weekend: Blackout = { days: ['sat', 'sun'], timeZone: 'America/New_York' }

  test('whole days begin and end at midnight there, over the changes of clocks', () => {
    expect(closed(weekend, '2026-10-24', '2026-11-10')).toEqual([
      '2026-10-24T04:00 48h',
      '2026-10-31T04:00 49h',
      '2026-11-07T05:00 48h',
    ])
    expect(closed(weekend, '2027-03-12', '2027-03-18')).toEqual(['2027-03-13T05:00 47h'])
  })

  test('times of day narrow it; a time that is earlier than the first is on the day after', () => {
    const hours: Blackout = { days: ['fri'], from: '22:00', to: '06:00', timeZone: 'Europe/Zurich' }
    expect(closed(hours, '2026-12-30', '2027-01-05')).toEqual(['2027-01-01T21:00 8h'])
    expect(closed({ timeZone: 'UTC', from: '09:30', to: '16:00' }, '2026-12-30', '2027-01-01')).toEqual([
      '2026-12-30T09:30 6.5h',
      '2026-12-31T09:30 6.5h',
    ])
    expect(closed({ timeZone: 'UTC', from: '18:00' }, '2026-12-30', '2026-12-31')).toEqual(['2026-12-30T18:00 6h'])
  })

  test('dates: a day, a range over the turn of the year, a day of every year', () => {
    const dates: Blackout = { timeZone: 'UTC', dates: ['2026-12-20/2027-01-03', '2027-01-10', '02-29'] }
    expect(closed(dates, '2026-12-01', '2028-12-01')).toEqual([
      '2026-12-20T00:00 360h',
      '2027-01-10T00:00 24h',
      '2028-02-29T00:00 24h',
    ])
  })

  test('holidays are whole days, whatever the times say', () => {
    const exchange: Blackout = { timeZone: 'UTC', days: ['thu', 'fri'], from: '09:30', to: '16:00', holidays: ['2026-12-25'] }
    expect(closed(exchange, '2026-12-23', '2026-12-30')).toEqual(['2026-12-24T09:30 6.5h', '2026-12-25T00:00 24h'])
    expect(closed({ timeZone: 'UTC', holidays: ['12-25'] }, '2026-12-01', '2027-12-31')).toHaveLength(2)
  })

  test('several that touch are one', () => {
    const evening: Blackout = { timeZone: 'UTC', days: ['fri'], from: '18:00' }
    expect(
      closed(
        [evening, { timeZone: 'UTC', days: ['sat'] }, { timeZone: 'UTC', days: ['sun'], to: '12:00' }],
        '2026-11-20',
        '2026-11-24',
      ),
    ).toEqual(['2026-11-20T18:00 42h'])
  })
})

test('closed is what the clock on the wall says', () => {
  const time = fc.integer({ min: 0, max: 95 }).map((quarter) => quarter * 15)
  const text = (minutes: number): string =>
    `${String(Math.floor(minutes / 60)).padStart(2, '0')}:${String(minutes % 60).padStart(2, '0')}`
  const blackout = fc.record({
    timeZone: fc.constantFrom('America/New_York', 'Europe/Zurich', 'Asia/Kathmandu', 'Pacific/Apia'),
    days: fc.subarray([...DAY_NAMES], { minLength: 1 }),
    times: fc.tuple(time, time).filter(([from, to]) => from !== to),
  })
  const start = Date.UTC(2026, 11, 1)
  fc.assert(
    fc.property(
      blackout,
      fc.array(fc.nat(365 * 96), { minLength: 20, maxLength: 20 }),
      ({ timeZone, days, times: [from, to] }, quarters) => {
        const spans = closedSpans([{ timeZone, days, from: text(from), to: text(to) }], { from: start, to: start + 366 * DAY })
        for (const quarter of quarters) {
          const at = start + quarter * 15 * MINUTE
          const offset = offsetAt(timeZone, at)
          const day = localDayAt(timeZone, at)
          const minute = (at + offset - day * DAY) / MINUTE
          const isDay = (which: number): boolean => days.includes(DAY_NAMES[weekdayOf(which)] ?? 'mon')
          const expected =
            from < to
              ? isDay(day) && from <= minute && minute < to
              : (isDay(day) && from <= minute) || (isDay(day - 1) && minute < to)
          const found = spans.some((span) => span.from <= at && at < span.to)
          // Where clocks are changed, a time may come twice: then it is closed for longer, never for less.
          if (offsetAt(timeZone, at - 3 * HOUR) === offsetAt(timeZone, at + 3 * HOUR))
            expect(found, new Date(at).toISOString()).toBe(expected)
          else if (expected) expect(found, new Date(at).toISOString()).toBe(true)
        }
      },
    ),
    { numRuns: 60 },
  )
})

test('a day of every year is that day, in every year', () => {
  fc.assert(
    fc.property(fc.integer({ min: dayOf('2026-01-01'), max: dayOf('2033-12-31') }), (day) => {
      const yearly = monthAndDayOf(day)
      const spans = closedSpans([{ timeZone: 'UTC', dates: [yearly] }], { from: (day - 1) * DAY, to: (day + 2) * DAY })
      expect(spans).toEqual([{ from: day * DAY, to: (day + 1) * DAY }])
    }),
    { numRuns: 100 },
  )
})
