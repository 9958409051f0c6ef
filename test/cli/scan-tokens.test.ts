/** Tokens in bytes: what is found, where, and over which borders. */
import { randomBytes } from 'node:crypto'
import { parseToken, tokenSha256 } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { vectors } from '../contract/vectors.ts'
import { freshToken, tokensIn } from './scanning.ts'

const swapped = (bytes: Buffer): Buffer => Buffer.from(bytes).swap16()
const utf16 = (text: string): Buffer => Buffer.from(text, 'utf16le')
const LITTLE_MARK = Buffer.from([0xff, 0xfe])
const BIG_MARK = Buffer.from([0xfe, 0xff])

/** The finder's memory has this size; what begins near its end is found after it has been moved. */
const ROOM = 1 << 20
const noise = randomBytes(3 * ROOM)
/** The noise could go on where the token ends. */
const END = Buffer.from('"')

describe('the contract’s vectors', () => {
  const cases = vectors<{ brand?: string; text: string; found: string[] }[]>('scanner')
  test.each(cases)('finds what it should in $text', ({ brand, text, found }) => {
    const brands = brand === undefined ? new Set(['tm', ...found.map((token) => token.split('_')[0] ?? '')]) : [brand]
    expect(tokensIn(Buffer.from(text), [...brands]).map((token) => token.tokenSha256)).toEqual(found.map(tokenSha256))
  })

  const { good, bad } = vectors<{ good: { token: string; sha256: string }[]; bad: { token: string; why: string }[] }>('tokens')
  test.each(good)('finds $token', ({ token, sha256 }) => {
    const parsed = parseToken(token)
    if (!parsed.ok) throw new Error('the vector is none')
    const found = tokensIn(Buffer.from(`x = ${token}\n`), [parsed.parts.brand])
    expect(found).toEqual([{ ...parsed.parts, tokenSha256: sha256, line: 1, column: 5, length: token.length }])
  })

  test.each(bad)('does not find: $why', ({ token }) => {
    const brands = ['kt', 'tm', ...[/^[a-z][a-z0-9]{1,9}(?=_)/.exec(token)?.[0] ?? 'kt']]
    const whole = tokensIn(Buffer.from(token), [...new Set(brands)]).filter(({ length }) => length === token.length)
    expect(whole).toEqual([])
  })
})

describe('any bytes', () => {
  const before = fc.oneof(
    fc.integer({ min: 0, max: 300 }),
    fc.integer({ min: ROOM - 70_000, max: ROOM + 300 }),
    fc.integer({ min: ROOM - 300, max: ROOM + 10 }),
    fc.integer({ min: 2 * ROOM - 500, max: 2 * ROOM + 10 }),
  )
  const after = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 1_000 }), fc.constant(ROOM))
  const pieces = fc.array(fc.integer({ min: 3_000, max: 150_000 }), { minLength: 1, maxLength: 4 })
  const encodings = {
    ASCII: (text: string) => Buffer.from(text),
    'UTF-16LE': utf16,
    'UTF-16BE': (text: string) => swapped(utf16(text)),
  }

  test.each(Object.entries(encodings))('a token in %s is found wherever it stands and however it comes', (_, encode) => {
    fc.assert(
      fc.property(before, after, pieces, (beforeBytes, afterBytes, sizes) => {
        const token = freshToken()
        const bytes = Buffer.concat([noise.subarray(0, beforeBytes), encode(token), END, noise.subarray(0, afterBytes)])
        expect(tokensIn(bytes, ['kt'], sizes).map((found) => found.tokenSha256)).toEqual([tokenSha256(token)])
      }),
      { numRuns: 100 },
    )
  })

  test.each(Object.entries(encodings))('a token in %s that comes byte by byte is found', (_, encode) => {
    const token = freshToken()
    const bytes = Buffer.concat([noise.subarray(0, 1_001), encode(token), END])
    expect(tokensIn(bytes, ['kt'], [1])).toMatchObject([{ tokenSha256: tokenSha256(token) }])
  })

  test.each(Object.entries(encodings))('with any character of it altered, nothing is found in %s', (_, encode) => {
    fc.assert(
      fc.property(before, fc.nat(), fc.integer({ min: 0, max: 255 }), (beforeBytes, place, byte) => {
        const token = freshToken()
        const at = place % token.length
        const other = String.fromCharCode(byte)
        fc.pre(other !== token.charAt(at))
        const altered = token.slice(0, at) + other + token.slice(at + 1)
        const bytes = encode === encodings.ASCII ? Buffer.from(altered, 'latin1') : encode(altered)
        expect(tokensIn(Buffer.concat([noise.subarray(0, beforeBytes), bytes, END]))).toEqual([])
      }),
      { numRuns: 100 },
    )
  })

  test('tokens of several brands come in their order, each once', () => {
    const tokens = Array.from({ length: 15_000 }, (_, i) => freshToken(['kt', 'tm', 'abc'][i % 3] ?? 'kt'))
    const found = tokensIn(Buffer.from(tokens.join('\n')), ['tm', 'kt', 'abc'], [100_000])
    expect(found.map(({ tokenSha256: sha256 }) => sha256)).toEqual(tokens.map(tokenSha256))
    expect(found.map(({ line }) => line)).toEqual(tokens.map((_, i) => i + 1))
  })

  test('a brand that ends like another is not taken for it', () => {
    expect(tokensIn(Buffer.from(freshToken('akt')), ['kt'])).toEqual([])
  })
})

describe('line and column', () => {
  const token = freshToken()
  const longLine = 'x'.repeat(2 * ROOM + 5)
  const cases: [what: string, bytes: Buffer, line: number, column: number][] = [
    ['first character', Buffer.from(token), 1, 1],
    ['after line ends', Buffer.from(`a\nb\n  ${token}\n`), 3, 3],
    ['after Windows line ends', Buffer.from(`a\r\nb\r\n  ${token}\r\n`), 3, 3],
    ['after characters of 2, 3 and 4 bytes', Buffer.from(`é€😀 ${token}`), 1, 5],
    ['after a byte order mark', Buffer.from(`\ufeff${token}`), 1, 1],
    ['in UTF-16LE with its mark', Buffer.concat([LITTLE_MARK, utf16(`ਊ\n😀 ${token}\n`)]), 2, 3],
    ['in UTF-16BE with its mark', Buffer.concat([BIG_MARK, swapped(utf16(`ਊ\n😀 ${token}\n`))]), 2, 3],
    ['in UTF-16LE, a letter right after it', Buffer.concat([LITTLE_MARK, utf16(`${token}š`)]), 1, 1],
    ['in UTF-16BE, a letter right after it', Buffer.concat([BIG_MARK, swapped(utf16(`${token}š`))]), 1, 1],
    ['on a line longer than the memory', Buffer.from(`a\n${longLine}${token}`), 2, longLine.length + 1],
    ['after more lines than the memory holds', Buffer.from(`${'é\n'.repeat(ROOM)} ${token}`), ROOM + 1, 2],
    ['in UTF-16 past the memory', Buffer.concat([BIG_MARK, swapped(utf16(`${'é\n'.repeat(ROOM)} ${token}`))]), ROOM + 1, 2],
  ]
  test.each(cases)('%s', (_, bytes, line, column) => {
    expect(tokensIn(bytes, ['kt'], [65_537])).toMatchObject([{ line, column, length: token.length }])
  })

  test('UTF-16LE without a mark, past the memory, a letter right after it', () => {
    expect(tokensIn(utf16(`${'x'.repeat(ROOM / 2)}${token}š`))).toMatchObject([{ tokenSha256: tokenSha256(token) }])
  })

  test('UTF-16 without a mark, at an odd place of a binary file', () => {
    const bytes = Buffer.concat([Buffer.from([1, 0, 2]), utf16(token), Buffer.from([0, 0])])
    expect(tokensIn(bytes)).toMatchObject([{ tokenSha256: tokenSha256(token) }])
  })
})
