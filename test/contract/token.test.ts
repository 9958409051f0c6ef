import { crc32 } from 'node:zlib'
import {
  BASE62_DIGITS,
  bytesToBase62,
  ENVIRONMENTS,
  type Environment,
  type KeyId,
  newKeyId,
  newToken,
  parseToken,
  scannerExpression,
  type TokenFlaw,
  toBase62,
  tokenChecksum,
  tokenSha256,
} from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { vectors } from './vectors.ts'

interface GoodToken {
  token: string
  brand: string
  environment: Environment
  keyId: KeyId
  secretHex: string
  secret: string
  checksum: string
  sha256: string
}
const tokens = vectors<{ good: GoodToken[]; bad: { token: string; flaw: TokenFlaw; why: string }[] }>('tokens')
const base62 = vectors<{
  digits: string
  numbers: { value: string; width: number; text: string }[]
  checksums: { text: string; crc32: number; checksum: string }[]
}>('base62')

const char = fc.constantFrom(...BASE62_DIGITS)
const parts = fc.record({
  brand: fc.stringMatching(/^[a-z][a-z0-9]{1,9}$/),
  environment: fc.constantFrom(...ENVIRONMENTS),
  keyId: fc.string({ unit: char, minLength: 16, maxLength: 16 }).map((id) => id as KeyId),
})
const secret = fc.uint8Array({ minLength: 32, maxLength: 32 })
const fromBase62 = (text: string): bigint => [...text].reduce((n, c) => n * 62n + BigInt(BASE62_DIGITS.indexOf(c)), 0n)

describe('token vectors', () => {
  test.each(tokens.good)('$token is made from its parts and read into them', (vector) => {
    const { brand, environment, keyId } = vector
    expect(newToken({ brand, environment, keyId }, Buffer.from(vector.secretHex, 'hex'))).toBe(vector.token)
    expect(parseToken(vector.token)).toEqual({ ok: true, parts: { brand, environment, keyId } })
    expect(`${brand}_${environment}_${keyId}_${vector.secret}${vector.checksum}`).toBe(vector.token)
    expect(tokenSha256(vector.token)).toBe(vector.sha256)
  })

  test.each(tokens.bad)('refused: $why', ({ token, flaw }) => {
    expect(parseToken(token)).toEqual({ ok: false, flaw })
  })

  test.each(vectors<{ token: string; sha256: string }[]>('verifiers'))('verifier of "$token"', ({ token, sha256 }) => {
    expect(tokenSha256(token)).toBe(sha256)
  })

  test.each(vectors<{ brand?: string; text: string; found: string[] }[]>('scanner'))('scanner on $text', (vector) => {
    const candidates = vector.text.match(new RegExp(scannerExpression(vector.brand), 'g')) ?? []
    expect(candidates.filter((candidate) => parseToken(candidate).ok)).toEqual(vector.found)
  })
})

describe('base62 and checksum vectors', () => {
  test('digits', () => expect(BASE62_DIGITS).toBe(base62.digits))

  test.each(base62.numbers)('$value', ({ value, width, text }) => {
    expect(toBase62(BigInt(value), width)).toBe(text)
    expect(fromBase62(text)).toBe(BigInt(value))
  })

  test.each(base62.checksums)('checksum of "$text"', ({ text, crc32: number, checksum }) => {
    expect(crc32(text)).toBe(number)
    expect(tokenChecksum(text)).toBe(checksum)
  })
})

describe('token properties', () => {
  test('what is made can be read', () => {
    fc.assert(
      fc.property(parts, secret, (wanted, bytes) => {
        expect(parseToken(newToken(wanted, bytes))).toEqual({ ok: true, parts: wanted })
      }),
    )
  })

  test('any other character in any place is refused', () => {
    fc.assert(
      fc.property(
        parts,
        secret,
        fc.nat(),
        fc.oneof(char, fc.constant('_'), fc.string({ unit: 'binary', minLength: 1, maxLength: 1 })),
        (wanted, bytes, at, other) => {
          const token = newToken(wanted, bytes)
          const place = at % token.length
          fc.pre(token.charAt(place) !== other)
          expect(parseToken(token.slice(0, place) + other + token.slice(place + 1)).ok).toBe(false)
        },
      ),
      { numRuns: 1000 },
    )
  })

  test('two neighbours exchanged are refused', () => {
    fc.assert(
      fc.property(parts, secret, fc.nat(), (wanted, bytes, at) => {
        const token = newToken(wanted, bytes)
        const place = at % (token.length - 1)
        const exchanged = token.slice(0, place) + token.charAt(place + 1) + token.charAt(place) + token.slice(place + 2)
        fc.pre(exchanged !== token)
        expect(parseToken(exchanged).ok).toBe(false)
      }),
    )
  })

  test('the scanner finds every token in any text', () => {
    fc.assert(
      fc.property(parts, secret, fc.string(), (wanted, bytes, before) => {
        const token = newToken(wanted, bytes)
        expect(`${before} ${token}\n`.match(new RegExp(scannerExpression(), 'g'))).toContain(token)
      }),
    )
  })

  test('base62 of bytes is their big-endian number, in the width asked for', () => {
    fc.assert(
      fc.property(secret, (bytes) => {
        const text = bytesToBase62(bytes, 43)
        expect(text).toMatch(/^[0-9A-Za-z]{43}$/)
        expect(fromBase62(text)).toBe(BigInt(`0x${Buffer.from(bytes).toString('hex')}`))
      }),
    )
  })
})

describe('making tokens', () => {
  test('secrets and key ids are fresh every time', () => {
    const wanted = { brand: 'kt', environment: 'prod', keyId: newKeyId() } as const
    expect(new Set(Array.from({ length: 100 }, () => newToken(wanted))).size).toBe(100)
    expect(new Set(Array.from({ length: 100 }, newKeyId)).size).toBe(100)
  })

  test.each([
    ['brand', { brand: 'KT', environment: 'prod', keyId: newKeyId() }],
    ['environment', { brand: 'kt', environment: 'live' as Environment, keyId: newKeyId() }],
    ['key id', { brand: 'kt', environment: 'prod', keyId: 'short' as KeyId }],
  ] as const)('a token that could not be read is not made: %s', (_, wanted) => {
    expect(() => newToken(wanted)).toThrow(RangeError)
  })

  test('a secret of another length is refused', () => {
    expect(() => newToken({ brand: 'kt', environment: 'prod', keyId: newKeyId() }, new Uint8Array(31))).toThrow(RangeError)
  })

  test('negative numbers have no base62', () => expect(() => toBase62(-1, 6)).toThrow(RangeError))
})
