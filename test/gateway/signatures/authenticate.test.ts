/** What becomes of a signed request: each flaw has an answer that helps its author, and none that tells of keys. */
import { describe, expect, test } from 'vitest'
import { traced } from '../../../gateway/src/tracing.ts'
import { NOW } from '../support.ts'
import { bodyOf, CREATED, HOST, openOne, requestOf } from './one.ts'
import {
  COVERED,
  digestOf,
  issueEd25519,
  issueHmac,
  KEK,
  newNonce,
  type SigningPair,
  signMessage,
  signPlain,
  type ToSign,
} from './signing.ts'

const URL_ = `https://${HOST}/orders?limit=5`
const at = (key: SigningPair, more: Partial<ToSign> = {}) => signMessage(key, { url: URL_, created: CREATED, ...more })
const asked = (headers: Record<string, string | string[]>, more = {}) => ({ headers, url: '/orders?limit=5', ...more })
const BODY = Buffer.from('{"buy":1}')
const posted = (headers: Record<string, string | string[]>, body: Uint8Array = BODY) =>
  asked({ ...headers, 'content-length': String(body.length) }, { method: 'POST', body: bodyOf(body) })
const post = { method: 'POST', body: BODY }

describe.each([
  ['hmac-sha256', issueHmac],
  ['ed25519', issueEd25519],
] as const)('a request signed with %s', (_, issue) => {
  const key = issue({ scopes: ['orders:read'], sunsetAt: '2026-02-01T00:00:00.000Z', successor: 2 })

  test('is accepted, counted and told of the rotation like one that shows its token', async () => {
    const { authenticate, counted, outcomes } = openOne([key])
    const answer = await authenticate(requestOf(asked({ ...(await at(key)), 'user-agent': 'bot/1' })), ['orders:read'])
    expect(answer).toMatchObject({
      accepted: true,
      identity: { 'keyturn-key-id': key.record.keyId, 'keyturn-client': key.record.clientId, 'keyturn-scopes': 'orders:read' },
    })
    expect(answer.responseHeaders).toHaveProperty('keyturn-key-rotation')
    expect(outcomes).toEqual(['accepted'])
    expect(counted).toEqual([{ keyId: key.record.keyId, outcome: 'accepted', address: '192.0.2.7', userAgent: 'bot/1' }])
  })

  test('may cover authority, path and query instead of the target, and more than it must', async () => {
    const { code } = openOne([key])
    const fields = ['@method', '@authority', '@path', '@query', '@scheme', '@request-target', 'date', 'accept']
    const headers = { date: 'Thu, 15 Jan 2026 12:00:00 GMT', accept: 'text/html,  */*' }
    const params = { tag: 'my "app\\"', alg: key.kind, expires: new Date(NOW + 10_000) }
    expect(await code(asked(await at(key, { fields, headers, params })))).toBe('accepted')
  })

  test('is accepted with a body that fits its digest, of either kind, beside others', async () => {
    const { code } = openOne([key])
    for (const digest of [
      digestOf(BODY),
      digestOf(BODY, 'sha-512'),
      `md5=:YQ==:, ${digestOf(BODY)}, ${digestOf(BODY, 'sha-512')}`,
    ])
      expect(await code(posted(await at(key, { ...post, headers: { 'content-digest': digest } })))).toBe('accepted')
  })

  test('is not accepted once its token is shown instead', async () => {
    const { code, outcomes } = openOne([key])
    expect(await code({ headers: { authorization: `Bearer ${key.token}` } })).toBe('invalid-key')
    expect(await code({ headers: { 'x-api-key': key.token } })).toBe('invalid-key')
    expect(outcomes).toEqual(['unknown', 'unknown'])
  })

  test('is refused by scope, address and method, with its nonce used up', async () => {
    const narrow = issue({ allow: { methods: ['GET'], addresses: ['192.0.2.0/24'] } })
    const { code, counted, outcomes } = openOne([narrow])
    const headers = await at(narrow)
    expect(await code(asked(headers), ['orders:write'])).toBe('missing-scope')
    expect(await code(asked(headers))).toBe('request-replayed')
    expect(await code(asked(await at(narrow), { address: '203.0.113.1' }))).toBe('address-not-allowed')
    expect(await code(posted(await at(narrow, post)))).toBe('method-not-allowed-for-key')
    expect(outcomes).toEqual(['forbidden', 'replayed', 'forbidden', 'forbidden'])
    expect(counted.map(({ outcome }) => outcome)).toEqual(['accepted', 'replayed', 'accepted', 'accepted'])
  })
})

describe('whatever is wrong with a key', () => {
  const key = issueHmac()
  const other = issueHmac()
  const edwards = issueEd25519()
  const states = {
    revoked: issueHmac({ state: 'deactivated' }),
    compromised: issueHmac({ state: 'compromised' }),
    suspended: issueEd25519({ state: 'suspended' }),
    waiting: issueEd25519({ state: 'pre-activation' }),
    expired: issueHmac({ expiresAt: new Date(NOW).toISOString() }),
    foreign: issueEd25519({ environment: 'dev' }),
    unknown: issueHmac(),
  }
  const notEnrolled = issueEd25519()
  const noPoint = issueEd25519()

  test('has one and the same answer: unknown, wrong, revoked, of another kind, not enrolled, no key at all', async () => {
    const { unknown, ...known } = states
    const unenrolled = { ...notEnrolled, record: { ...notEnrolled.record, verifier: { kind: 'ed25519' as const } } }
    const bent = {
      ...noPoint,
      record: { ...noPoint.record, verifier: { kind: 'ed25519' as const, publicKey: Buffer.alloc(32, 255).toString('base64') } },
    }
    const { authenticate, held, counted } = openOne([key, edwards, ...Object.values(known), unenrolled, bent])
    const wrongKey = { ...other, record: key.record }
    const wrongKind = { ...issueEd25519(), record: key.record }
    const otherKind = { ...issueHmac(), record: edwards.record }
    const oddId = { ...other, record: { ...other.record, keyId: '__proto__' as never } }
    const requests = [unknown, ...Object.values(known), unenrolled, bent, wrongKey, wrongKind, otherKind, oddId].map(
      async (each) => authenticate(requestOf(asked(await at(each)))),
    )
    const shown = authenticate(requestOf({ headers: { authorization: 'Bearer nonsense' } }))
    const answers = await Promise.all([shown, ...requests])
    for (const answer of answers) expect(answer).toEqual(answers[0])
    expect(answers[0]).toMatchObject({
      problem: { code: 'invalid-key', status: 401 },
      responseHeaders: { 'www-authenticate': 'Bearer' },
    })
    expect(held).toHaveLength(answers.length)
    // Whoever can write a key's id must not be able to roll back its rotation.
    expect(counted.map(({ keyId }) => keyId).sort()).toEqual(
      Object.values(known)
        .map(({ record }) => record.keyId)
        .sort(),
    )
  })

  test('once it has ended, uses up no nonce and has no body read: a leaked key could fill the store', async () => {
    const { unknown, ...known } = states
    const done: string[] = []
    const check = () => {
      done.push('nonce')
      return 'fresh' as const
    }
    const read = async () => {
      done.push('body')
      return BODY
    }
    const { code } = openOne(Object.values(known), { replay: { check } })
    for (const each of Object.values(known)) {
      const request = asked({ ...(await at(each, post)), 'content-length': '9' }, { method: 'POST', body: { read } })
      expect(await code(request)).toBe('invalid-key')
    }
    expect(done).toEqual([])
  })

  test('a token beside a signature, and two ways of signing at once, are refused like a wrong key', async () => {
    const { code, outcomes } = openOne([key])
    const [message, plain] = [await at(key), signPlain(key, { url: URL_, timestamp: NOW })]
    expect(await code(asked({ ...message, authorization: `Bearer ${key.token}` }))).toBe('invalid-key')
    expect(await code(asked({ ...message, 'x-api-key': key.token }))).toBe('invalid-key')
    expect(await code(asked({ ...plain, authorization: 'Basic eDp5' }))).toBe('invalid-key')
    expect(await code(asked({ ...message, ...plain }))).toBe('invalid-key')
    expect(outcomes).toEqual(['ambiguous', 'ambiguous', 'ambiguous', 'ambiguous'])
  })
})

describe('a signature that can not be checked is answered with what to do', () => {
  const key = issueHmac()
  const flawed: [string, (headers: Record<string, string>) => Record<string, string | string[]>, string][] = [
    ['no Signature', ({ 'signature-input': input = '' }) => ({ 'signature-input': input }), 'Signature is missing'],
    ['no Signature-Input', ({ signature = '' }) => ({ signature }), 'Signature-Input is missing'],
    ['nonsense', (h) => ({ ...h, 'signature-input': 'nonsense' }), 'Signature-Input is not readable'],
    [
      'an item instead of a list',
      (h) => ({ ...h, 'signature-input': 'sig="@method";created=1' }),
      'Signature-Input is not readable',
    ],
    ['no bytes', (h) => ({ ...h, signature: 'sig="text"' }), 'Signature is not readable'],
    ['another label', (h) => ({ ...h, signature: h['signature']?.replace('sig=', 'gis=') ?? '' }), 'Signature has no "sig"'],
    ['too few bytes', (h) => ({ ...h, signature: 'sig=:AAAA:' }), 'neither the 32 bytes'],
    [
      'two signatures',
      (h) => ({
        ...h,
        signature: `${h['signature']}, b=:AAAA:`,
        'signature-input': `${h['signature-input']}, b=("@method");created=1`,
      }),
      'More than one',
    ],
    [
      'two in two fields',
      (h) => ({ ...h, 'signature-input': [h['signature-input'] ?? '', 'sig2=("@method")'] }),
      'More than one',
    ],
    [
      'two of one name',
      (h) => ({ ...h, 'signature-input': `${h['signature-input']}, ${h['signature-input']}` }),
      'More than one',
    ],
    [
      'no keyid',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace(/;keyid="[^"]*"/, '') ?? '' }),
      'keyid is missing',
    ],
    [
      'no nonce',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace(/;nonce="[^"]*"/, '') ?? '' }),
      'nonce is missing',
    ],
    [
      'no created',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace(/;created=\d+/, '') ?? '' }),
      'created is missing',
    ],
    [
      'created as text',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace(/;created=\d+/, ';created="now"') ?? '' }),
      'whole seconds',
    ],
    [
      'a nonce without quotes',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace(/;nonce="[^"]*"/, ';nonce=x') ?? '' }),
      'nonce is a string',
    ],
    [
      'an endless nonce',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace(/;nonce="[^"]*"/, `;nonce="${'n'.repeat(129)}"`) ?? '' }),
      '1 to 128',
    ],
    [
      'an unknown algorithm',
      (h) => ({ ...h, 'signature-input': `${h['signature-input']};alg="rsa-pss-sha512"` }),
      'neither hmac-sha256 nor ed25519',
    ],
    [
      'an algorithm that the signature is not of',
      (h) => ({ ...h, 'signature-input': `${h['signature-input']};alg="ed25519"` }),
      'alg says ed25519',
    ],
    [
      'a component with parameters',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace('"@method"', '"@method";req') ?? '' }),
      'without parameters',
    ],
    [
      'a component twice',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace('"@method"', '"@method" "@method"') ?? '' }),
      'covered twice',
    ],
    [
      'a component of responses',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace('"@method"', '"@method" "@status"') ?? '' }),
      '"@status" can not be covered',
    ],
    [
      'a field that is not there',
      (h) => ({ ...h, 'signature-input': h['signature-input']?.replace('"@method"', '"@method" "constructor"') ?? '' }),
      '"constructor" is covered and was not sent',
    ],
    [
      'a field that is not ASCII',
      (h) => ({
        ...h,
        'x-name': 'caf\u00e9',
        'signature-input': h['signature-input']?.replace('"@method"', '"@method" "x-name"') ?? '',
      }),
      'other than ASCII',
    ],
    ['a sequence that is not covered', (h) => ({ ...h, 'x-sequence': '7' }), 'cover "x-sequence"'],
  ]

  test.each(flawed)('%s', async (_, spoil, expected) => {
    const { authenticate, counted, held, outcomes } = openOne([key])
    for (const signer of [key, issueHmac()]) {
      const answer = await authenticate(requestOf(asked(spoil(await at(signer)))))
      expect(answer).toMatchObject({
        accepted: false,
        problem: { code: 'signature-malformed', status: 401, detail: expect.stringContaining(expected) },
      })
    }
    expect([counted, held, outcomes]).toEqual([[], [], ['malformed', 'malformed']])
  })

  test.each([
    ['@method', ['@target-uri'], 'Cover "@method"'],
    ['@target-uri', ['@method'], 'Cover "@target-uri"'],
    ['@query beside @path', ['@method', '@authority', '@path'], 'Cover "@target-uri"'],
    ['@authority beside @path', ['@method', '@path', '@query'], 'Cover "@target-uri"'],
  ])('without %s', async (_, fields, expected) => {
    expect(await openOne([key]).detail(asked(await at(key, { fields })))).toContain(`signature-malformed: ${expected}`)
  })

  test('a body without a digest, or with one that is not covered, of an unknown kind or unreadable', async () => {
    const { detail } = openOne([key])
    expect(await detail(posted(await at(key, { ...post, fields: COVERED })))).toContain('cover "content-digest"')
    const digests = {
      'crc32c=:YQ==:': 'of no kind',
      'md5=:YQ==:': 'of no kind',
      'sha-256=abc': 'not readable',
      'sha-256': 'not readable',
      ':': 'not readable',
    }
    for (const [digest, expected] of Object.entries(digests))
      expect(await detail(posted(await at(key, { ...post, headers: { 'content-digest': digest } })))).toContain(expected)
  })

  test('a target that is no path', async () => {
    const { detail } = openOne([key])
    for (const url of [undefined, '*', `https://${HOST}/orders?limit=5`])
      expect(await detail(asked(await at(key), { url }))).toContain('no path')
  })
})

describe('a body', () => {
  const key = issueHmac()

  test('that is not the one that was signed is told so once the signature is right', async () => {
    const { detail, outcomes } = openOne([key])
    const headers = await at(key, post)
    expect(await detail(posted(headers, Buffer.from('{"buy":2}')))).toBe(
      'digest-mismatch: The body does not fit its Content-Digest.',
    )
    expect(
      await detail(posted({ ...headers, signature: (await at(issueHmac(), post))['signature'] ?? '' }, Buffer.from('x'))),
    ).toContain('invalid-key')
    expect(outcomes).toEqual(['malformed', 'unknown'])
    expect(await detail(posted(headers))).toBe('accepted')
  })

  test('that is none has to fit a digest all the same, where one is signed', async () => {
    const { code } = openOne([key])
    const headers = await at(key, { fields: [...COVERED, 'content-digest'], headers: { 'content-digest': digestOf(BODY) } })
    expect(await code(asked(headers))).toBe('digest-mismatch')
    const empty = await at(key, {
      fields: [...COVERED, 'content-digest'],
      headers: { 'content-digest': digestOf(Buffer.alloc(0)) },
    })
    expect(await code(asked(empty))).toBe('accepted')
  })

  test('over the limit is not read, nor one of a caller who can not sign', async () => {
    const { authenticate } = openOne([key], { signing: { bodyLimit: 100 } })
    const large = Buffer.alloc(101)
    const answer = await authenticate(requestOf(posted(await at(key, { method: 'POST', body: large }), large)))
    expect(answer).toMatchObject({ problem: { code: 'too-large', status: 413 }, responseHeaders: { connection: 'close' } })
    let read = 0
    const body = {
      read: async () => {
        read += 1
        return Buffer.alloc(0)
      },
    }
    const unknown = asked({ ...(await at(issueHmac(), post)), 'content-length': '9' }, { method: 'POST', body })
    expect(await authenticate(requestOf(unknown))).toMatchObject({ problem: { code: 'invalid-key' } })
    expect(read).toBe(0)
  })

  test('that is too slow, or breaks off, is told so', async () => {
    const { authenticate } = openOne([key])
    const flaws = { 'too-slow': 'body-too-slow', incomplete: 'invalid-request' } as const
    for (const [flaw, expected] of Object.entries(flaws)) {
      const body = { read: () => Promise.resolve(flaw as keyof typeof flaws) }
      const request = { ...posted(await at(key, post)), body }
      expect(await authenticate(requestOf(request))).toMatchObject({ problem: { code: expected } })
    }
  })

  test('that somebody else has is refused, unless the API promises to compare its digest', async () => {
    const unseen = (headers: Record<string, string>, method = 'POST') => asked(headers, { method, body: 'unseen' })
    const refusing = openOne([key])
    expect(await refusing.detail(unseen(await at(key, post)))).toContain('can not be compared')
    for (const method of ['GET', 'HEAD', 'OPTIONS'])
      expect([method, await refusing.code(unseen(await at(key, { method }), method))]).toEqual([method, 'accepted'])
    expect(await refusing.code(asked(await at(key, { method: 'DELETE' }), { method: 'DELETE', body: 'unseen' }))).toBe(
      'signature-malformed',
    )
    const trusting = openOne([key], { signing: { unseenBodies: 'api-checks' } })
    expect(await trusting.code(unseen(await at(key, post)))).toBe('accepted')
    expect(await trusting.detail(unseen(await at(key, { method: 'POST' })))).toContain('cover "content-digest"')
    expect(await trusting.code(unseen(signPlain(key, { url: URL_, method: 'POST', timestamp: NOW })))).toBe('signature-malformed')
    expect(await trusting.code(unseen(signPlain(key, { url: URL_, timestamp: NOW }), 'GET'))).toBe('accepted')
    // A program that asks without a body that says it has one.
    const silent = { ...posted(await at(key, post)), body: undefined }
    expect(await trusting.code(silent)).toBe('signature-malformed')
  })
})

describe('time and order', () => {
  const key = issueHmac()

  test.each([
    [-61, 'request-stale'],
    [-60, 'accepted'],
    [5, 'accepted'],
    [6, 'request-stale'],
  ])('a client whose clock is %i s off: %s', async (off, expected) => {
    const { code, counted } = openOne([key])
    expect(await code(asked(await at(key, { created: CREATED + off })))).toBe(expected)
    expect(await code(asked(signPlain(key, { url: URL_, timestamp: NOW + off * 1_000 })))).toBe(expected)
    expect(counted.map(({ outcome }) => outcome)).toEqual(Array(2).fill(expected === 'accepted' ? 'accepted' : 'stale'))
  })

  test('expires is honoured', async () => {
    const { code } = openOne([key])
    expect(await code(asked(await at(key, { params: { expires: new Date(NOW - 1_000) } })))).toBe('request-stale')
    expect(await code(asked(await at(key, { params: { expires: new Date(NOW) } })))).toBe('accepted')
  })

  test('a request that comes again is replayed, in either way of signing and across both; a wrong one uses up no nonce', async () => {
    const { code, outcomes } = openOne([key])
    const nonce = newNonce()
    const forged = await at({ ...issueHmac(), record: key.record }, { nonce })
    expect(await code(asked(forged))).toBe('invalid-key')
    const headers = await at(key, { nonce })
    expect([await code(asked(headers)), await code(asked(headers))]).toEqual(['accepted', 'request-replayed'])
    expect(await code(asked(signPlain(key, { url: URL_, timestamp: NOW, nonce })))).toBe('request-replayed')
    const another = issueHmac()
    expect(await openOne([another]).code(asked(await at(another, { nonce })))).toBe('accepted')
    expect(outcomes).toEqual(['unknown', 'accepted', 'replayed', 'replayed'])
  })

  test('sequence numbers rise, and may overtake each other a little', async () => {
    const { code } = openOne([key])
    const numbered = (sequence: number) => signPlain(key, { url: URL_, timestamp: NOW, sequence })
    const fields = [...COVERED, 'x-sequence']
    const inMessage = (sequence: string) => at(key, { fields, headers: { 'x-sequence': sequence } })
    const codes = []
    for (const headers of [numbered(10), await inMessage('12'), numbered(11), numbered(11), await inMessage('5')])
      codes.push(await code(asked(headers)))
    expect(codes).toEqual(['accepted', 'accepted', 'accepted', 'request-out-of-order', 'request-out-of-order'])
    expect(await code(asked(await inMessage('12.5')))).toBe('signature-malformed')
  })

  test.each([
    ['hmac-sha256', issueHmac],
    ['ed25519', issueEd25519],
  ] as const)('a key of %s that has to number its requests is told so once its signature is right', async (_, issue) => {
    const ordered = issue({ allow: { sequence: 'required' } })
    const { detail, code, outcomes } = openOne([ordered])
    expect(await detail(asked(await at(ordered)))).toBe(
      'signature-malformed: The requests of this key are numbered: send X-Sequence, signed',
    )
    expect(await code(asked(await at({ ...issue(), record: ordered.record })))).toBe('invalid-key')
    const nonce = newNonce()
    expect(await code(asked(await at(ordered, { nonce })))).toBe('signature-malformed')
    const numbered = { fields: [...COVERED, 'x-sequence'], headers: { 'x-sequence': '1' } }
    expect(await code(asked(await at(ordered, { ...numbered, nonce })))).toBe('accepted')
    expect(await code(asked(await at(ordered, numbered)))).toBe('request-out-of-order')
    expect(outcomes).toEqual(['malformed', 'unknown', 'malformed', 'accepted', 'out-of-order'])
  })

  test('is not decided while the guard does not know, is full, or the gateway may not', async () => {
    for (const verdict of ['unavailable', 'full'] as const) {
      const { authenticate, counted } = openOne([key], { replay: { check: () => verdict } })
      expect(await authenticate(requestOf(asked(await at(key))))).toMatchObject({
        problem: { status: 503 },
        responseHeaders: { 'retry-after': '5' },
      })
      expect(counted.map(({ outcome }) => outcome)).toEqual(['undecided'])
    }
    expect(await openOne([key], { freshness: 'loading' }).code(asked(await at(key)))).toBe('gateway-undecided')
    expect(await openOne([key], { freshness: 'stale', failClosed: ['orders:*'] }).code(asked(await at(key)))).toBe(
      'gateway-undecided',
    )
    expect(await openOne([key], { freshness: 'stale' }).code(asked(await at(key)))).toBe('accepted')
  })

  test('G3: a key that ends while its request waits for the guard or a body is refused', async () => {
    let end = () => undefined as unknown
    const replay = {
      check: async () => {
        end()
        return 'fresh' as const
      },
    }
    const { code, cache, outcomes } = openOne([key], { replay })
    end = () => cache.apply({ ...key.record, revision: 2, state: 'compromised' })
    expect(await code(asked(await at(key)))).toBe('invalid-key')
    expect(outcomes).toEqual(['refused'])
  })
})

test('a span covers the decision to its end, and says which key it was', async () => {
  const key = issueHmac()
  const { authenticate } = openOne([key])
  const said: string[] = []
  const span = { setAttribute: (name: string, value: string) => said.push(`${name}=${value}`), end: () => said.push('end') }
  const watched = traced({ startSpan: () => span }, authenticate)
  const request = requestOf(asked(await at(key)))
  for (let i = 0; i < 2; i++) await watched(request)
  const broken = traced({ startSpan: () => span }, () => Promise.reject(new Error('broken')))
  await expect(broken(request)).rejects.toThrow('broken')
  expect(said).toEqual([
    ...['keyturn.outcome=accepted', `keyturn.key_id=${key.record.keyId}`, 'end'],
    ...['keyturn.outcome=request-replayed', 'end', 'end'],
  ])
})

describe('sealed signing keys', () => {
  test('are opened once per revision, also under the second key-encryption key', async () => {
    const before = Buffer.alloc(32, 7)
    const [key, old] = [issueHmac(), issueHmac({}, before)]
    const { code, cache, signingKeys, logged } = openOne([key, old], { signing: { keks: [KEK, before] } })
    for (let i = 0; i < 3; i++) for (const each of [key, old]) expect(await code(asked(await at(each)))).toBe('accepted')
    expect(signingKeys.counts).toEqual({ opened: 2, unopened: 0 })
    cache.apply(structuredClone({ ...key.record, revision: 2, sunsetAt: '2026-02-01T00:00:00.000Z' }))
    expect(await code(asked(await at(key)))).toBe('accepted')
    expect(signingKeys.counts.opened).toBe(3)
    for (const { token } of [key, old]) expect(logged()).not.toContain(token)
  })

  test('that do not open are our fault: 503, said loudly, and never a refusal', async () => {
    const key = issueHmac()
    const spoilt = issueHmac()
    const moved = issueHmac()
    const { verifier } = spoilt.record
    if (verifier.kind !== 'hmac-sha256') throw new Error('not sealed')
    const records = [
      {
        ...spoilt,
        record: {
          ...spoilt.record,
          verifier: {
            ...verifier,
            ciphertext: `${verifier.ciphertext.startsWith('A') ? 'B' : 'A'}${verifier.ciphertext.slice(1)}`,
          },
        },
      },
      { ...moved, record: { ...moved.record, verifier: key.record.verifier } },
    ]
    const none = openOne([key], { signing: { keks: [] } })
    expect(await none.code(asked(await at(key)))).toBe('gateway-undecided')
    expect(await none.code(asked(signPlain(key, { url: URL_, timestamp: NOW })))).toBe('gateway-undecided')
    expect(none.logged()).toContain('UNOPENED')
    expect(none.signingKeys.counts.unopened).toBe(2)
    expect(none.counted).toEqual([])
    const wrong = openOne([key, ...records], { signing: { keks: [Buffer.alloc(32, 1)] } })
    expect(await wrong.code(asked(await at(key)))).toBe('gateway-undecided')
    const right = openOne([key, ...records])
    for (const each of records) expect(await right.code(asked(await at(each)))).toBe('gateway-undecided')
    for (const { token } of [key, spoilt, moved]) expect(none.logged() + wrong.logged() + right.logged()).not.toContain(token)
  })

  test('are not needed for Ed25519', async () => {
    const key = issueEd25519()
    expect(await openOne([key], { signing: { keks: [] } }).code(asked(await at(key)))).toBe('accepted')
  })
})

describe('where a request was sent to', () => {
  const key = issueHmac()
  const sent = (headers: Record<string, string>, scheme: string, authority: string) => asked(headers, { scheme, authority })

  test('is as it says, with the default port or in capitals, unless it is configured', async () => {
    const { code } = openOne([key])
    expect(await code(sent(await at(key), 'https', 'API.example.com:443'))).toBe('accepted')
    expect(await code(sent(await at(key), 'http', HOST))).toBe('invalid-key')
    const behind = openOne([key], { signing: { publicUrls: ['https://other.example', `https://${HOST}`] } })
    expect(await behind.code(sent(await at(key), 'http', HOST))).toBe('accepted')
    expect(
      await behind.code(sent(await at(key, { url: 'https://other.example/orders?limit=5' }), 'http', 'localhost:8081')),
    ).toBe('accepted')
    expect(await behind.code(sent(await at(key), 'http', 'evil.example'))).toBe('invalid-key')
  })
})
