import fc from 'fast-check'
import { expect, test } from 'vitest'
import { cut, wellFormed } from '../../contract/src/text.ts'

test('a text is cut where no character is cut in half', () => {
  expect([cut('ab🔑', 3), cut('ab🔑', 4), cut('ab🔑cd', 5), cut('ab', 3), cut('', 3)]).toEqual(['ab', 'ab🔑', 'ab🔑c', 'ab', ''])
})

test('whatever the text: what is cut is its beginning, one unit shorter at most, and what is made well-formed is so', () => {
  const texts = fc.string({ unit: fc.constantFrom('a', '\ud83d', '\udd11', '🔑', '\0'), maxLength: 12 })
  fc.assert(
    fc.property(texts, fc.nat(14), (text, longest) => {
      const short = cut(text, longest)
      expect(text.startsWith(short)).toBe(true)
      expect(short.length).toBeLessThanOrEqual(longest)
      expect(short.length).toBeGreaterThanOrEqual(Math.min(longest, text.length) - 1)
      expect(() => encodeURIComponent(wellFormed(text))).not.toThrow()
      expect(wellFormed(wellFormed(text))).toBe(wellFormed(text))
    }),
  )
})
