import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { offsetAt } from '../../planning/local-time.ts'
import { quietUntil } from '../../planning/quiet-hours.ts'

const until = (at: string, timeZone: string, from = '22:00', to = '07:00') => {
  const end = quietUntil({ from, to }, timeZone, Date.parse(at))
  return end === undefined ? undefined : new Date(end).toISOString()
}

describe('quiet hours', () => {
  test.each([
    ['before midnight', '2026-11-26T23:30:00Z', 'UTC', '2026-11-27T07:00:00.000Z'],
    ['after midnight', '2026-11-26T03:00:00Z', 'UTC', '2026-11-26T07:00:00.000Z'],
    ['at their first minute', '2026-11-26T22:00:00Z', 'UTC', '2026-11-27T07:00:00.000Z'],
    ['at their end', '2026-11-26T07:00:00Z', 'UTC', undefined],
    ['at noon', '2026-11-26T12:00:00Z', 'UTC', undefined],
    ['in Berlin, where it is an hour later', '2026-11-26T21:30:00Z', 'Europe/Berlin', '2026-11-27T06:00:00.000Z'],
    ['in Berlin, where it is day already', '2026-11-26T06:30:00Z', 'Europe/Berlin', undefined],
    ['in Kathmandu', '2026-11-26T16:15:00Z', 'Asia/Kathmandu', '2026-11-27T01:15:00.000Z'],
    ['in the night when clocks are put forward', '2026-03-28T22:00:00Z', 'Europe/Berlin', '2026-03-29T05:00:00.000Z'],
    ['in the night when clocks are put back', '2026-10-24T21:00:00Z', 'Europe/Berlin', '2026-10-25T06:00:00.000Z'],
  ])('%s', (_, at, timeZone, end) => {
    expect(until(at, timeZone)).toBe(end)
  })

  test('may be within a day', () => {
    expect(until('2026-11-26T12:30:00Z', 'UTC', '12:00', '14:00')).toBe('2026-11-26T14:00:00.000Z')
    expect(until('2026-11-26T23:30:00Z', 'UTC', '12:00', '14:00')).toBeUndefined()
  })

  test('end within a day and an hour, when the wall clock shows their end, and are over then', () => {
    const time = fc
      .nat(23 * 60 + 59)
      .map((n) => `${String(Math.floor(n / 60)).padStart(2, '0')}:${String(n % 60).padStart(2, '0')}`)
    const zones = fc.constantFrom('UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kolkata', 'Pacific/Auckland')
    const when = fc.integer({ min: Date.parse('2026-01-01'), max: Date.parse('2028-01-01') })
    fc.assert(
      fc.property(time, time, zones, when, (from, to, timeZone, at) => {
        fc.pre(from !== to)
        const end = quietUntil({ from, to }, timeZone, at)
        if (end === undefined) return
        expect(end).toBeGreaterThan(at - 3_600_000)
        expect(end - at).toBeLessThanOrEqual(25 * 3_600_000)
        const shown = new Date(end + offsetAt(timeZone, end)).toISOString().slice(11, 16)
        // A time that is skipped by the clocks comes an hour later.
        if (offsetAt(timeZone, end - 7_200_000) === offsetAt(timeZone, end + 7_200_000)) expect(shown).toBe(to)
      }),
      { numRuns: 500 },
    )
  })
})
