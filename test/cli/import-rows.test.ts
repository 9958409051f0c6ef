/** Files of keys as they come: read as a stream, row by row, and nothing of them repeated. */
import { createHash, randomBytes } from 'node:crypto'
import { checkImportedKey, strengthOf } from '@keyturn/contract'
import { bitsOf } from '@keyturn/contract/strength'
import { describe, expect, test } from 'vitest'
import { type FileItem, readRows } from '../../cli/import-rows.ts'

const NOW = Date.parse('2026-03-01T00:00:00Z')
const DIGEST = createHash('sha256').update('a token').digest('hex')
const ROW = { sha256: DIGEST, client: 'Acme', name: 'feed', environment: 'prod', scopes: 'read:prices', bits: '256' }

async function read(...chunks: (string | Uint8Array)[]): Promise<FileItem[]> {
  async function* source() {
    for (const chunk of chunks) yield typeof chunk === 'string' ? Buffer.from(chunk) : chunk
  }
  const items: FileItem[] = []
  for await (const item of readRows(source())) items.push(item)
  return items
}

describe('a file', () => {
  test('CSV: byte-order mark, Windows line ends, quoted commas and blank lines are read; lines are counted', async () => {
    const bytes = Buffer.from('\uFEFFname,scopes\r\n\r\n"feed, old","read:a,read:b"\r\nü,\r\n')
    const expected = [
      { kind: 'header', line: 1, names: ['name', 'scopes'] },
      { kind: 'row', line: 3, fields: { name: 'feed, old', scopes: 'read:a,read:b' } },
      { kind: 'row', line: 4, fields: { name: 'ü', scopes: '' } },
    ]
    expect(await read(bytes)).toEqual(expected)
    // However it is cut: in the middle of a character, of a line end.
    expect(await read(...[...bytes].map((byte) => Uint8Array.of(byte)))).toEqual(expected)
  })

  test('lines are counted from the first of the file, also when that is blank', async () => {
    expect(await read('\n \r\na,b\n1,2\n3\n')).toEqual([
      { kind: 'header', line: 3, names: ['a', 'b'] },
      { kind: 'row', line: 4, fields: { a: '1', b: '2' } },
      { kind: 'flaw', line: 5, message: 'has 1 fields, where the first line names 2' },
    ])
    expect(await read('\n\na,b\n"1,2\n')).toContainEqual(
      expect.objectContaining({ kind: 'flaw', line: expect.toSatisfy((n) => n >= 4) }),
    )
  })

  test('JSON lines are known by their first character', async () => {
    expect(await read('\uFEFF{"a":1}\r\n\n[1]\n{"a":\n{"b":2}')).toEqual([
      { kind: 'row', line: 1, fields: { a: 1 } },
      { kind: 'flaw', line: 3, message: 'is not a JSON object' },
      { kind: 'flaw', line: 4, message: 'is not a JSON object' },
      { kind: 'row', line: 5, fields: { b: 2 } },
    ])
  })

  test('nothing at all is no row', async () => {
    expect(await read()).toEqual([])
    expect(await read('\uFEFF', '\r\n \n')).toEqual([])
  })

  test.each<[string, (string | Uint8Array)[], number, RegExp]>([
    ['a field too many', ['a,b\n1,2\n1,2,3\n'], 3, /has 3 fields, where the first line names 2/],
    ['a quotation mark that does not end', ['a,b\n1,2\n"1,2\n3,4\n'], 4, /quotation marks that do not fit/],
    ['a quotation mark within a field', ['a,b\n1,2\n"1"x,2\n'], 3, /quotation marks that do not fit/],
    ['bytes that are not UTF-8', ['a,b\n1,2\n', Uint8Array.of(0x31, 0xff, 10), '1,2\n'], 3, /is not UTF-8/],
    ['UTF-16', [Buffer.from('\uFEFFa,b\n1,2\n', 'utf16le')], 1, /is not UTF-8/],
    ['a line of more than 64 KiB', ['a,b\n1,', 'x'.repeat(70_000), '\n1,2\n'], 2, /longer than 64 KiB/],
    [
      'a line of more than 64 KiB that ends in the next piece',
      ['a,b\n1,', 'x'.repeat(60_000), `${'x'.repeat(6_000)}\n1,2\n`],
      2,
      /longer than 64 KiB/,
    ],
    ['a row of more than 64 KiB in many lines', [`a,b\n"${'x\n'.repeat(40_000)}",2\n`], 2, /quotation marks/],
    ['a quoted field of more than 64 KiB', [`a,b\n"1${'\n'.repeat(70_000)}`], 2, /quotation marks/],
  ])('%s: its line is said, and what', async (_, chunks, line, message) => {
    const flaws = (await read(...chunks)).filter(({ kind }) => kind === 'flaw')
    expect(flaws.at(-1)).toMatchObject({ message: expect.stringMatching(message) })
    expect(flaws.at(-1)?.line).toBeGreaterThanOrEqual(line)
  })

  test.each(['csv', 'json'])('a line of 1 GB (%s) is given up after 64 KiB: no more of it is read', async (format) => {
    const chunk = Buffer.alloc(65_536, 'x')
    let sent = 0
    async function* source() {
      yield Buffer.from(format === 'csv' ? 'a,b\n1,' : '{"a":"')
      for (; sent < 1_073_741_824; sent += chunk.length) yield chunk
    }
    const items: FileItem[] = []
    for await (const item of readRows(source())) items.push(item)
    expect(items.at(-1)).toEqual({
      kind: 'flaw',
      line: format === 'csv' ? 2 : 1,
      message: 'is longer than 64 KiB: no row is',
    })
    expect(sent).toBeLessThan(1_000_000)
  })
})

describe('a row', () => {
  const flawOf = (more: object): string | undefined => {
    const checked = checkImportedKey({ ...ROW, ...more }, NOW)
    return checked.ok ? undefined : checked.message
  }
  const FOREIGN = 'sk_live_4eC39HqLyjWDarjtT1zdp7dcQ2xY'

  test('is read from texts and from JSON alike', () => {
    const base64 = Buffer.from(DIGEST, 'hex').toString('base64')
    const key = { sha256: base64, client: 'Acme', name: 'feed', environment: 'prod', scopes: ['read:prices'], bits: 256 }
    expect(checkImportedKey(ROW, NOW)).toEqual({ ok: true, key })
    expect(
      checkImportedKey({ ...key, scopes: ['a', 'b:*'], createdAt: '2024-02-29', expiresAt: '2030-01-01T12:30:00.5Z' }, NOW),
    ).toEqual({
      ok: true,
      key: { ...key, scopes: ['a', 'b:*'], createdAt: '2024-02-29T00:00:00.000Z', expiresAt: '2030-01-01T12:30:00.500Z' },
    })
    expect(
      checkImportedKey({ ...ROW, sha256: DIGEST.toUpperCase(), scopes: 'a, b;c', bits: 200, length: 20, alphabet: 'hex' }, NOW),
    ).toEqual({
      ok: true,
      key: { ...key, scopes: ['a', 'b', 'c'], bits: 80 },
    })
  })

  test.each<[string, object, RegExp]>([
    ['a token where the digest belongs', { sha256: FOREIGN }, /^sha256: not a SHA-256 digest .* `keyturn import hash`/],
    ['base64 that no digest has', { sha256: `${'B'.repeat(43)}=` }, /^sha256: not a SHA-256/],
    ['no digest', { sha256: '' }, /^sha256: is missing/],
    ['a token where the name belongs', { name: `feed ${FOREIGN}` }, /^name: holds something that looks like a key/],
    ['a token where the client belongs', { client: FOREIGN }, /^client: holds something that looks like a key/],
    ['a client with a line break', { client: 'Acme\nInc' }, /^client: must have 1 to 200 printable/],
    ['an unknown environment', { environment: 'production' }, /^environment: must be one of dev, test, prod/],
    ['an unknown form of scope', { scopes: 'read:prices Trade' }, /^scopes: number 2 is not a scope/],
    ['a scope twice', { scopes: 'a a' }, /^scopes: the same one stands there twice/],
    ['scopes that are a number', { scopes: 1 }, /^scopes: must be a list/],
    ['a day that does not exist', { createdAt: '2023-02-29' }, /^createdAt: there is no such date/],
    ['an hour that does not exist', { expiresAt: '2030-01-01T24:00:00Z' }, /^expiresAt: there is no such date/],
    ['a month that does not exist', { expiresAt: '2030-13-01' }, /^expiresAt: there is no such date/],
    ['a date of another form', { createdAt: '01.02.2024' }, /^createdAt: must look like/],
    ['a key from the future', { createdAt: '2026-03-02' }, /^createdAt: lies in the future/],
    ['an end before the beginning', { createdAt: '2025-03-02', expiresAt: '2025-03-01' }, /^expiresAt: is not after/],
    ['an unknown alphabet', { length: 40, alphabet: 'klingon' }, /^alphabet: must be one of digits, hex/],
    ['a length without an alphabet', { length: 40 }, /give both, or bits/],
    ['half a bit', { bits: '127.5' }, /^bits: must be a whole number/],
    ['an unknown field', { [FOREIGN]: 'x' }, /^field 7 is none of sha256, client/],
  ])('%s is refused, and not repeated', (_, more, message) => {
    const said = flawOf(more)
    expect(said).toMatch(message)
    expect(said).not.toContain(FOREIGN)
  })

  test('strength is what alphabet and length allow, prefixes of words aside', () => {
    const bits = (token: string) => bitsOf(strengthOf(token))
    expect(bits(randomBytes(16).toString('hex'))).toBe(128)
    expect(bits(`sk_live_${'a1'.repeat(12)}`)).toBe(96)
    expect(bits('6f9619ff-8b86-4011-b42d-00cf4fc964ff')).toBe(122)
    expect(bits('key_6f9619ff-8b86-4011-b42d-00cf4fc964ff')).toBe(122)
    expect(bits('0123456789012345678901234567890123456789')).toBe(132)
    expect(bits('AbC123AbC123AbC123AbC123')).toBe(142)
    expect(strengthOf('x!y').alphabet).toBe('printable')
  })
})
