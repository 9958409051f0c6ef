import { formatRotationNotice, parseRotationNotice } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { vectors } from './vectors.ts'

interface Notice {
  value: string
  sunset: string
  successor: number
}
const header = vectors<{ written: Notice[]; read: Notice[]; refused: string[] }>('rotation-header')

describe('Keyturn-Key-Rotation', () => {
  test.each(header.written)('writes $value', ({ value, sunset, successor }) => {
    expect(formatRotationNotice({ sunset: new Date(sunset), successor })).toBe(value)
  })

  test.each(header.read)('reads $value', ({ value, sunset, successor }) => {
    expect(parseRotationNotice(value)).toEqual({ sunset: new Date(sunset), successor })
  })

  test.each(header.refused)('refuses %j', (value) => expect(parseRotationNotice(value)).toBeUndefined())

  test('what is written is read back', () => {
    const time = fc.date({ min: new Date('1970-01-01'), max: new Date('9999-12-31'), noInvalidDate: true })
    fc.assert(
      fc.property(time, fc.integer({ min: 2, max: 1e9 }), (at, successor) => {
        const sunset = new Date(Math.floor(at.getTime() / 1000) * 1000)
        expect(parseRotationNotice(formatRotationNotice({ sunset, successor }))).toEqual({ sunset, successor })
      }),
    )
  })

  test('no text makes the reader fail', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'sunset=@17,; "()?:%\\é') }), (text) => {
        expect(() => parseRotationNotice(text)).not.toThrow()
      }),
    )
  })
})
