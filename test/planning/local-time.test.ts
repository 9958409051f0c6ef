import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { dayOf, instantOf, localDayAt, monthAndDayOf, offsetAt, weekdayOf } from '../../planning/local-time.ts'

const DAY = 86_400_000
const MINUTE = 60_000
/** Far from UTC on both sides, half and quarter hours, both hemispheres, clocks changed at midnight, by half an hour, and never. */
const ZONES = [
  'UTC',
  'America/New_York',
  'America/Santiago',
  'Africa/Cairo',
  'Asia/Kathmandu',
  'Australia/Lord_Howe',
  'Europe/Zurich',
  'Pacific/Apia',
  'Pacific/Kiritimati',
  'Pacific/Pago_Pago',
]

const iso = (zone: string, date: string, time: string, which: 'first' | 'second'): string =>
  new Date(instantOf(zone, dayOf(date), Number(time.slice(0, 2)) * 60 + Number(time.slice(3)), which)).toISOString().slice(0, 16)

describe('a local time in UTC', () => {
  test.each([
    ['UTC', '2026-12-31', '23:59', '2026-12-31T23:59'],
    ['America/New_York', '2026-07-01', '09:30', '2026-07-01T13:30'],
    ['America/New_York', '2026-12-01', '09:30', '2026-12-01T14:30'],
    ['Asia/Kathmandu', '2028-02-29', '00:00', '2028-02-28T18:15'],
  ])('%s %s %s is %s', (zone, date, time, utc) => {
    expect([iso(zone, date, time, 'first'), iso(zone, date, time, 'second')]).toEqual([utc, utc])
  })

  test('one that comes twice, when clocks are put back, is the first or the second', () => {
    expect(iso('America/New_York', '2026-11-01', '01:30', 'first')).toBe('2026-11-01T05:30')
    expect(iso('America/New_York', '2026-11-01', '01:30', 'second')).toBe('2026-11-01T06:30')
    expect(iso('Australia/Lord_Howe', '2027-04-04', '01:45', 'first')).toBe('2027-04-03T14:45')
    expect(iso('Australia/Lord_Howe', '2027-04-04', '01:45', 'second')).toBe('2027-04-03T15:15')
  })

  test.each([
    ['America/New_York', '2027-03-14', '02:30', '2027-03-14T07:00'],
    ['Europe/Zurich', '2027-03-28', '02:00', '2027-03-28T01:00'],
    // There is no midnight on the day that clocks are put forward here.
    ['Africa/Cairo', '2027-04-30', '00:00', '2027-04-29T22:00'],
  ])('one that does not exist is the moment in which it is passed over: %s %s %s', (zone, date, time, utc) => {
    expect([iso(zone, date, time, 'first'), iso(zone, date, time, 'second')]).toEqual([utc, utc])
  })

  test('is the time that a clock there shows then', () => {
    const minutes = fc.integer({ min: Date.UTC(2024, 0, 1) / MINUTE, max: Date.UTC(2032, 0, 1) / MINUTE })
    fc.assert(
      fc.property(fc.constantFrom(...ZONES), minutes, (zone, minute) => {
        const at = minute * MINUTE
        const day = localDayAt(zone, at)
        const shown = (at + offsetAt(zone, at) - day * DAY) / MINUTE
        expect([instantOf(zone, day, shown, 'first'), instantOf(zone, day, shown, 'second')]).toContain(at)
      }),
      { numRuns: 500 },
    )
  })
})

test('days are counted over leap days and the turn of the year', () => {
  expect(weekdayOf(dayOf('2026-11-23'))).toBe(0)
  expect(weekdayOf(dayOf('2028-02-29'))).toBe(1)
  expect(monthAndDayOf(dayOf('2028-02-28') + 1)).toBe('02-29')
  expect(monthAndDayOf(dayOf('2026-12-31') + 1)).toBe('01-01')
  expect(localDayAt('Pacific/Kiritimati', Date.UTC(2026, 11, 31, 12))).toBe(dayOf('2027-01-01'))
})
