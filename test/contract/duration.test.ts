import { DURATION_PATTERN, formatDuration, MAX_DURATION_MS, parseDuration } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { vectors } from './vectors.ts'

const durations = vectors<{
  parsed: { text: string; ms: number }[]
  formatted: { ms: number; text: string }[]
  refused: string[]
}>('durations')
const pattern = new RegExp(DURATION_PATTERN)

describe('duration vectors', () => {
  test.each(durations.parsed)('$text is $ms ms', ({ text, ms }) => {
    expect(parseDuration(text)).toBe(ms)
    expect(text).toMatch(pattern)
  })

  test.each(durations.formatted)('$ms ms is written $text', ({ ms, text }) => expect(formatDuration(ms)).toBe(text))

  test.each(durations.refused)('%j is refused', (text) => expect(() => parseDuration(text)).toThrow(RangeError))
})

describe('duration properties', () => {
  const ms = fc.nat({ max: MAX_DURATION_MS })

  test('what is written is read back', () => {
    fc.assert(
      fc.property(ms, (value) => {
        expect(parseDuration(formatDuration(value))).toBe(value)
      }),
    )
  })

  test('milliseconds in an ISO duration are exact', () => {
    fc.assert(
      fc.property(fc.nat({ max: 86_400_000 }), (value) => {
        expect(parseDuration(`PT${(value / 1000).toFixed(3)}S`)).toBe(value)
      }),
    )
  })

  test('what the pattern refuses, the parser refuses', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'PT0123456789.WDHMSwdhms -') }), (text) => {
        fc.pre(!pattern.test(text))
        expect(() => parseDuration(text)).toThrow(RangeError)
      }),
    )
  })

  test('what is not finite is not written', () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) expect(() => formatDuration(value)).toThrow(RangeError)
  })
})
