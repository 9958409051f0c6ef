/** The examples of RFC 9421 that use our algorithms, and `http-message-signatures` as the yardstick, both ways. */
import { createHmac, createPublicKey, verify } from 'node:crypto'
import fc from 'fast-check'
import { createVerifier, httpbis } from 'http-message-signatures'
import { describe, expect, test } from 'vitest'
import { Flaw } from '../../../gateway/src/signatures/flaw.ts'
import { createHmacCheck } from '../../../gateway/src/signatures/hmac.ts'
import { readMessageSignature } from '../../../gateway/src/signatures/message-signature.ts'
import { signatureBase, type Target } from '../../../gateway/src/signatures/signature-base.ts'
import { parseSignature, parseSignatureInput } from '../../../gateway/src/signatures/signature-input.ts'
import { runsOf } from '../../support/runs.ts'
import { bodyOf, CREATED, HOST, openOne } from './one.ts'
import { digestOf, issueEd25519, issueHmac, type SigningPair, signBytes, signMessage } from './signing.ts'

/** Appendix B.2: the test request. */
const REQUEST: Target = {
  method: 'POST',
  scheme: 'https',
  authority: 'example.com',
  url: '/foo?param=Value&Pet=dog',
  headers: {
    host: 'example.com',
    date: 'Tue, 20 Apr 2021 02:07:55 GMT',
    'content-type': 'application/json',
    'content-digest': 'sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:',
    'content-length': '18',
  },
}
/** B.1.5. */
const SHARED = Buffer.from('uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==', 'base64')
/** B.1.4. */
const EDWARDS = createPublicKey(
  '-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n-----END PUBLIC KEY-----\n',
)
const EXAMPLES = [
  {
    name: 'B.2.5, hmac-sha256',
    input: 'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"',
    signature: 'sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:',
    check: createHmacCheck(SHARED),
  },
  {
    name: 'B.2.6, ed25519',
    input:
      'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"',
    signature: 'sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:',
    check: (base: string, signature: Buffer) => verify(null, Buffer.from(base), EDWARDS, signature),
  },
]
const ALTERED: Record<string, (request: Target) => Target> = {
  date: (r) => ({ ...r, headers: { ...r.headers, date: 'Tue, 20 Apr 2021 02:07:56 GMT' } }),
  '@method': (r) => ({ ...r, method: 'PUT' }),
  '@path': (r) => ({ ...r, url: '/fop?param=Value&Pet=dog' }),
  '@authority': (r) => ({ ...r, authority: 'example.org' }),
  'content-type': (r) => ({ ...r, headers: { ...r.headers, 'content-type': 'application/JSON' } }),
  'content-length': (r) => ({ ...r, headers: { ...r.headers, 'content-length': '19' } }),
}

describe.each(EXAMPLES)('RFC 9421 $name', ({ input, signature, check }) => {
  const verified = (request: Target, given = input): boolean => {
    const parsed = parseSignatureInput(given)
    if (parsed instanceof Flaw) throw new Error(parsed.detail)
    const bytes = parseSignature(signature, parsed.label)
    const base = signatureBase(parsed, request)
    if (bytes instanceof Flaw || base instanceof Flaw) throw new Error('not readable')
    return check(base, bytes)
  }

  test('verifies, also when it is not written as it would be serialized', () => {
    expect(verified(REQUEST)).toBe(true)
    expect(verified(REQUEST, input.replace('=("', '=(  "').replace('")', '"  )').replace(';created', '; created'))).toBe(true)
  })

  test('altered in each covered part it does not', () => {
    const parsed = parseSignatureInput(input)
    for (const name of (parsed as Exclude<typeof parsed, Flaw>).components) {
      const alter = ALTERED[name]
      if (alter === undefined) throw new Error(`nothing alters ${name}`)
      expect([name, verified(alter(REQUEST))]).toEqual([name, false])
    }
    expect(verified(REQUEST, input.replace('1618884473', '1618884474'))).toBe(false)
    expect(verified(REQUEST, input.replace('"test-', '"best-'))).toBe(false)
  })
})

const visible = fc.string({ unit: fc.constantFrom(...'abcXYZ019-._~!$&()*+;=:@ "\\/') })
const token = fc.string({ unit: fc.constantFrom(...'abcdefghijklmnopqrstuvwxyz0123456789'), minLength: 1, maxLength: 8 })
const query = fc.array(fc.tuple(token, token), { maxLength: 3 }).map((pairs) => pairs.map(([a, b]) => `${a}=${b}`).join('&'))
const request = fc.record({
  method: fc.constantFrom('GET', 'POST', 'PUT', 'DELETE'),
  path: fc.array(token, { maxLength: 4 }).map((parts) => `/${parts.join('/')}`),
  query,
  headers: fc.dictionary(
    token.map((name) => `x-f-${name}`),
    visible.map((value) => value.trim()).filter((value) => value !== ''),
    { maxKeys: 3 },
  ),
  whole: fc.boolean(),
  body: fc.option(fc.uint8Array({ minLength: 1, maxLength: 50 }), { nil: undefined }),
  nonce: fc.string({ unit: fc.constantFrom(...'abcXYZ019 -_"\\,;:()='), minLength: 1, maxLength: 40 }),
  label: token.map((name) => `a${name}`),
  order: fc.infiniteStream(fc.nat(100)),
})
type Generated = typeof request extends fc.Arbitrary<infer T> ? T : never

const fieldsOf = ({ whole, headers, body }: Generated): string[] => [
  '@method',
  ...(whole ? ['@target-uri'] : ['@authority', '@path', '@query']),
  ...Object.keys(headers),
  ...(body === undefined ? [] : ['content-digest']),
]
const urlOf = ({ path, query: search }: Generated): string => `${path}${search === '' ? '' : `?${search}`}`

function signedBy(key: SigningPair, given: Generated): Promise<Record<string, string>> {
  const fields = fieldsOf(given)
  const shuffled = fields.map((field) => [given.order.next().value, field] as const).sort(([a], [b]) => a - b)
  return signMessage(key, {
    method: given.method,
    url: `https://${HOST}${urlOf(given)}`,
    body: given.body,
    headers: given.headers,
    created: CREATED,
    nonce: given.nonce,
    fields: shuffled.map(([, field]) => field),
    name: given.label,
  })
}

const asked = (given: Generated, headers: Record<string, string | string[]>) => ({
  method: given.method,
  url: urlOf(given),
  headers: given.body === undefined ? headers : { ...headers, 'content-length': String(given.body.length) },
  ...(given.body === undefined ? {} : { body: bodyOf(given.body) }),
})

describe.each([
  ['hmac-sha256', issueHmac()],
  ['ed25519', issueEd25519()],
] as const)('beside http-message-signatures, %s', (kind, key) => {
  const { count, seed, text } = runsOf({ few: 150, many: 5_000 })

  test(`whatever it signs is accepted; nothing is once a covered part, or what covers it, is altered (${text})`, async () => {
    await fc.assert(
      fc.asyncProperty(request, fc.nat(), fc.nat(), async (given, which, where) => {
        const headers = await signedBy(key, given)
        expect(await openOne([key]).detail(asked(given, headers))).toBe('accepted')
        const again = alter(asked(given, headers), which, where)
        expect(await openOne([key]).code(again)).not.toBe('accepted')
      }),
      { numRuns: count, seed },
    )
  })

  test(`what we sign over our signature base, it accepts, and it reads the same (${text})`, async () => {
    await fc.assert(
      fc.asyncProperty(request, async (given) => {
        const components = fieldsOf(given)
        const own: Record<string, string> = given.body === undefined ? {} : { 'content-digest': digestOf(given.body) }
        const headers = { ...given.headers, ...own }
        const nonce = given.nonce.replace(/["\\]/g, '\\$&')
        const params = `(${components.map((name) => `"${name}"`).join(' ')});created=${CREATED};nonce="${nonce}";keyid="${key.record.keyId}"`
        const target: Target = { method: given.method, scheme: 'https', authority: HOST, url: urlOf(given), headers }
        const base = signatureBase({ components, params }, target)
        if (base instanceof Flaw) throw new Error(base.detail)
        const signature = `${given.label}=:${signBytes(key, Buffer.from(base)).toString('base64')}:`
        const signed = { ...headers, 'signature-input': `${given.label}=${params}`, signature }
        expect(readMessageSignature({ ...target, headers: signed }, given.body !== undefined)).toMatchObject({
          base,
          kind,
          nonce: given.nonce,
        })
        const accepted = await httpbis.verifyMessage(
          {
            keyLookup: async () => ({
              id: key.record.keyId,
              algs: [kind],
              verify: createVerifier(kind === 'ed25519' ? publicOf(key) : key.token, kind),
            }),
            notAfter: new Date(CREATED * 1_000),
          },
          { method: given.method, url: `https://${HOST}${urlOf(given)}`, headers: signed },
        )
        expect(accepted).toBe(true)
      }),
      { numRuns: count, seed },
    )
  })
})

const publicOf = ({ privateKey }: SigningPair) => createPublicKey(privateKey as Parameters<typeof createPublicKey>[0])

/** One thing of a signed request, changed: any part of it that counts. */
function alter(
  asked_: ReturnType<typeof asked>,
  which: number,
  where: number,
): Omit<ReturnType<typeof asked>, 'body'> & { body?: ReturnType<typeof bodyOf> } {
  const { 'signature-input': input = '', signature = '', ...rest } = asked_.headers as Record<string, string>
  const covered = Object.keys(rest).filter((name) => input.includes(`"${name}"`))
  const flip = (value: string): string => {
    const at = where % Math.max(1, value.length)
    const other = value[at] === 'a' ? 'b' : 'a'
    return `${value.slice(0, at)}${other}${value.slice(at + 1)}`
  }
  const changes = [
    () => ({ ...asked_, method: asked_.method === 'GET' ? 'HEAD' : 'GET' }),
    () => ({ ...asked_, url: `${asked_.url}/` }),
    () => ({ ...asked_, url: `${asked_.url}${asked_.url.includes('?') ? '&' : '?'}more=1` }),
    () => ({ ...asked_, url: asked_.url.toUpperCase() === asked_.url ? `${asked_.url}x` : asked_.url.toUpperCase() }),
    () => ({ ...asked_, authority: 'api.example.org' }),
    () => ({ ...asked_, headers: { ...asked_.headers, 'signature-input': input.replace(String(CREATED), String(CREATED - 1)) } }),
    () => ({ ...asked_, headers: { ...asked_.headers, 'signature-input': input.replace(/nonce="/, 'nonce="x') } }),
    () => ({ ...asked_, headers: { ...asked_.headers, 'signature-input': `${input};tag="x"` } }),
    () => ({
      ...asked_,
      headers: { ...asked_.headers, 'signature-input': input.replace(/\("([^"]*)" "([^"]*)"/, '("$2" "$1"') },
    }),
    () => {
      const bytes = Buffer.from(signature.slice(signature.indexOf(':')), 'base64')
      bytes[where % bytes.length] = (bytes[where % bytes.length] ?? 0) ^ (1 << (which % 8))
      const label = signature.slice(0, signature.indexOf('='))
      return { ...asked_, headers: { ...asked_.headers, signature: `${label}=:${bytes.toString('base64')}:` } }
    },
    () => {
      const name = covered[where % Math.max(1, covered.length)]
      if (name === undefined) return { ...asked_, method: 'PATCH' }
      return { ...asked_, headers: { ...asked_.headers, [name]: flip(rest[name] ?? '') } }
    },
    () => {
      const name = covered[where % Math.max(1, covered.length)]
      if (name === undefined) return { ...asked_, method: 'PATCH' }
      return { ...asked_, headers: { ...asked_.headers, [name]: [rest[name] ?? '', 'one more'] } }
    },
    () => {
      const name = covered[where % Math.max(1, covered.length)]
      const { [name ?? 'signature']: _, ...left } = asked_.headers as Record<string, string>
      return { ...asked_, headers: left }
    },
    () => (asked_.body === undefined ? { ...asked_, method: 'PATCH' } : { ...asked_, body: bodyOf(Buffer.from('another body')) }),
  ]
  return (changes[which % changes.length] as (typeof changes)[0])() as ReturnType<typeof alter>
}

test('the HMAC of two one-shot hashes is that of createHmac, for keys and texts of any length', () => {
  const text = fc.string({ unit: 'grapheme-ascii', maxLength: 9_000 })
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 200 }), text, fc.nat(31), (key, given, at) => {
      const check = createHmacCheck(Buffer.from(key))
      const right = createHmac('sha256', key).update(given).digest()
      expect(check(given, right)).toBe(true)
      right[at] = (right[at] ?? 0) ^ 1
      expect([check(given, right), check(given, right.subarray(1))]).toEqual([false, false])
    }),
    { numRuns: runsOf({ few: 200, many: 20_000 }).count },
  )
})
