import { formatRotationNotice, parseRotationNotice, tokenSha256, type UsageOutcome } from '@keyturn/contract'
import { createVerify, type Freshness, KeyCache } from '@keyturn/gateway'
import { describe, expect, test } from 'vitest'
import { createAuthenticate } from '../../gateway/src/authenticate.ts'
import { createFailClosed } from '../../gateway/src/fail-closed.ts'
import type { RequestInfo } from '../../gateway/src/request-info.ts'
import { bearer, type IssuedKey, issueKey, NOW } from './support.ts'

function open(keys: IssuedKey[], freshness: Freshness = 'fresh', failClosed: string[] = []) {
  const cache = new KeyCache()
  for (const { record } of keys) cache.apply(record)
  const counted: { keyId: string; outcome: UsageOutcome; address: string | undefined; userAgent: string | undefined }[] = []
  const outcomes: string[] = []
  const authenticate = createAuthenticate({
    verify: createVerify(cache, ['prod']),
    usage: {
      count: (keyId, outcome, source) => counted.push({ keyId, outcome, address: source?.address, userAgent: source?.userAgent }),
    },
    clock: () => NOW,
    freshness: () => freshness,
    failClosed: createFailClosed(failClosed),
    retryAfterSeconds: 5,
    onOutcome: (outcome) => outcomes.push(outcome),
    badTokens: { holdMs: () => 0 },
  })
  const code = (headers: RequestInfo['headers']) => {
    const answer = authenticate({ headers, address: '192.0.2.1' })
    return answer.accepted ? 'accepted' : answer.problem.code
  }
  return { authenticate, counted, outcomes, code }
}

describe('where the key stands', () => {
  const key = issueKey()
  const { code } = open([key])

  test.each([
    ['Authorization: Bearer', { authorization: `Bearer ${key.token}` }, 'accepted'],
    ['in any case, with spaces around', { authorization: `  bEaReR   ${key.token} ` }, 'accepted'],
    ['X-API-Key', { 'x-api-key': key.token }, 'accepted'],
    ['nowhere', {}, 'missing-key'],
    ['an empty field', { 'x-api-key': '' }, 'missing-key'],
    ['Bearer and nothing after it', { authorization: 'Bearer ' }, 'missing-key'],
    ['another scheme', { authorization: `Basic ${key.token}` }, 'missing-key'],
    ['no scheme', { authorization: key.token }, 'missing-key'],
    ['both fields', { authorization: `Bearer ${key.token}`, 'x-api-key': key.token }, 'invalid-key'],
    ['another scheme beside the key', { authorization: 'Basic eDp5', 'x-api-key': key.token }, 'invalid-key'],
    ['Authorization twice', { authorization: [`Bearer ${key.token}`, `Bearer ${key.token}`] }, 'invalid-key'],
    ['X-API-Key twice', { 'x-api-key': [key.token, key.token] }, 'invalid-key'],
    ['two keys in one field', { authorization: `Bearer ${key.token}, Bearer ${key.token}` }, 'invalid-key'],
  ])('%s', (_, headers, expected) => {
    expect(code(headers)).toBe(expected)
  })
})

describe('refusals', () => {
  const foreign = issueKey({ environment: 'dev' })
  const keys = {
    revoked: issueKey({ state: 'deactivated' }),
    compromised: issueKey({ state: 'compromised' }),
    suspended: issueKey({ state: 'suspended' }),
    early: issueKey({ state: 'pre-activation' }),
    expired: issueKey({ expiresAt: new Date(NOW).toISOString() }),
    future: issueKey({ notBefore: new Date(NOW + 1).toISOString() }),
  }
  const all = [...Object.values(keys), foreign]

  test('look all the same: unknown, wrong, expired, revoked, suspended, of another environment', () => {
    const { authenticate } = open(all)
    const shown = [...all.map(({ token }) => token), issueKey().token, 'no key at all', 'x'.repeat(600)]
    const answers = shown.map((token) => authenticate(bearer(token)))
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
    expect(answers[0]).toEqual({
      accepted: false,
      problem: {
        type: 'urn:keyturn:problem:invalid-key',
        title: 'The API key is not accepted',
        status: 401,
        code: 'invalid-key',
      },
      responseHeaders: { 'www-authenticate': 'Bearer' },
    })
  })

  test('are counted per key that is known, and only then', () => {
    const { authenticate, counted } = open(all)
    for (const { token } of all) authenticate(bearer(token))
    authenticate(bearer(issueKey().token))
    authenticate({ headers: {}, address: undefined })
    expect(counted.map(({ keyId, outcome }) => [keyId, outcome])).toEqual(
      all.map(({ record }) => [record.keyId, record === foreign.record ? 'wrong-environment' : 'refused']),
    )
  })
})

describe('an accepted request', () => {
  test('carries who calls', () => {
    const key = issueKey({ scopes: ['orders:read', 'orders:write'] })
    const answer = open([key]).authenticate(bearer(key.token))
    expect(answer).toMatchObject({
      accepted: true,
      identity: {
        'keyturn-client': key.record.clientId,
        'keyturn-credential': key.record.credentialId,
        'keyturn-key-id': key.record.keyId,
        'keyturn-scopes': 'orders:read orders:write',
      },
      responseHeaders: {},
    })
  })

  test('with an old key is told of the sunset and the successor', () => {
    const sunset = new Date('2026-02-01T00:00:00Z')
    const key = issueKey({ sunsetAt: sunset.toISOString(), successor: 2 })
    const answer = open([key]).authenticate(bearer(key.token))
    expect(answer.responseHeaders['keyturn-key-rotation']).toBe(formatRotationNotice({ sunset, successor: 2 }))
    expect(parseRotationNotice(answer.responseHeaders['keyturn-key-rotation'] ?? '')).toEqual({ sunset, successor: 2 })
  })

  test('G5: never counts a user agent that looks like a key', () => {
    const key = issueKey()
    const { authenticate, counted } = open([key])
    const { token } = issueKey()
    const agents = [
      `curl/8 ${key.token}`,
      `x_${token}_y`,
      `A${token}`,
      `${token.split('_')[3]}`,
      `curl/8 \u0000\u001b[31m${'long '.repeat(100)}`,
    ]
    for (const agent of agents) authenticate(bearer(key.token, agent))
    const shown = counted.map(({ userAgent }) => userAgent)
    expect(shown.slice(0, 4)).toEqual(Array.from({ length: 4 }, () => '[removed: looks like a key]'))
    expect(shown[4]).toMatch(/^curl\/8 {1,3}\[31mlong long/)
    expect(shown[4]?.length).toBeLessThanOrEqual(200)
  })

  test('G5: a key imported from elsewhere, of no format to be known by, is removed from the user agent, too', () => {
    const token = 'sk_live_4eC39HqLyjWDarjtT1zdp7dc'
    const imported = issueKey({ verifier: { kind: 'bearer', sha256: tokenSha256(token) } })
    const { authenticate, counted } = open([imported])
    authenticate(bearer(token, `app ${token}`))
    expect(counted.map(({ userAgent }) => userAgent)).toEqual(['[removed: looks like a key]'])
  })

  test('counts an address only when it is one', () => {
    const key = issueKey()
    const { authenticate, counted } = open([key])
    for (const address of ['::ffff:192.0.2.9', '2001:db8::1', key.token, undefined])
      authenticate({ ...bearer(key.token), address })
    expect(counted.map(({ address }) => address)).toEqual(['192.0.2.9', '2001:db8::1', 'unknown', 'unknown'])
  })
})

describe('a gateway that must not decide', () => {
  const key = issueKey({ scopes: ['trade:write'] })
  const revoked = issueKey({ scopes: ['trade:write'], state: 'deactivated' })

  test('answers 503 to everyone while it loads, and counts it for known keys', () => {
    const { authenticate, counted } = open([key], 'loading')
    const answers = [key.token, issueKey().token].map((token) => authenticate(bearer(token)))
    expect(answers[0]).toMatchObject({ accepted: false, problem: { status: 503, code: 'gateway-undecided' } })
    expect(answers[0]?.responseHeaders).toEqual({ 'retry-after': '5' })
    expect(answers[1]).toEqual(answers[0])
    expect(counted.map(({ outcome }) => outcome)).toEqual(['undecided'])
  })

  test.each([
    ['trade:*', 'gateway-undecided'],
    ['trade:write', 'gateway-undecided'],
    ['env:prod', 'gateway-undecided'],
    ['*', 'gateway-undecided'],
    ['trade:read', 'accepted'],
    ['tra:*', 'accepted'],
    ['env:dev', 'accepted'],
  ])('G3: stale, with %s failClosed, a key with trade:write gets %s', (pattern, expected) => {
    expect(open([key], 'stale', [pattern]).code({ 'x-api-key': key.token })).toBe(expected)
    expect(open([key], 'fresh', [pattern]).code({ 'x-api-key': key.token })).toBe('accepted')
  })

  test('G3: what a key holds as a wildcard touches what a pattern protects', () => {
    const broad = issueKey({ scopes: ['trade:*'] })
    expect(open([broad], 'stale', ['trade:write']).code({ 'x-api-key': broad.token })).toBe('gateway-undecided')
  })

  test('G3: stale, it refuses what it knows to be revoked, failClosed or not', () => {
    expect(open([revoked], 'stale', ['trade:*']).code({ 'x-api-key': revoked.token })).toBe('invalid-key')
  })

  test('refuses patterns that mean nothing', () => {
    expect(() => createFailClosed(['trade:*', 'env:production'])).toThrow(/"env:production" is neither/)
  })
})
