/** Session tokens at a gateway: what is refused, whoever made it and however, and what holds while the control plane is away. */
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type KeyRecord, SESSION_ISSUER, SESSION_TYPE, sessionAudience } from '@keyturn/contract'
import { createLog, createVerify, KeyCache, type KeyEntry, type Verify } from '@keyturn/gateway'
import fc from 'fast-check'
import { base64url, calculateJwkThumbprint, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { createFollow } from '../../gateway/src/follow.ts'
import { SessionKeys } from '../../gateway/src/session-keys.ts'
import { createSessions, type Sessions } from '../../gateway/src/sessions.ts'
import { runsOf } from '../support/runs.ts'
import { issueEd25519, issueHmac } from './signatures/signing.ts'
import { eventually, issueKey, NOW, TestClock } from './support.ts'

const S = Math.floor(NOW / 1_000)
const clock = new TestClock()
const BASE64URL = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'

interface Signer {
  readonly kid: string
  readonly privateKey: KeyObject
  readonly jwk: Record<string, string>
}

async function newSigner(): Promise<Signer> {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const { x = '' } = publicKey.export({ format: 'jwk' })
  const kid = await calculateJwkThumbprint({ kty: 'OKP', crv: 'Ed25519', x })
  return { kid, privateKey, jwk: { kty: 'OKP', crv: 'Ed25519', x, kid, alg: 'EdDSA', use: 'sig' } }
}

/** A control plane that publishes keys, or does not answer. */
async function startControlPlane(...published: Signer[]) {
  const plane = { keys: published.map(({ jwk }) => jwk) as unknown[], status: 200, asked: 0, url: '', location: '' }
  const server = createServer((_, response) => {
    plane.asked += 1
    const headers = { 'content-type': 'application/json', ...(plane.location === '' ? {} : { location: plane.location }) }
    response.writeHead(plane.status, headers).end(JSON.stringify({ keys: plane.keys }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  plane.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/.well-known/jwks.json`
  return plane
}

let signer: Signer
let plane: Awaited<ReturnType<typeof startControlPlane>>
let keys: SessionKeys
let cache: KeyCache
let key: KeyRecord
let sessions: Sessions
let verify: Verify

beforeEach(async () => {
  clock.now = NOW
  signer = await newSigner()
  plane = await startControlPlane(signer)
  keys = new SessionKeys({ url: plane.url, clock: clock.read, log: createLog('silent') })
  expect(await keys.refresh()).toBe(true)
  cache = new KeyCache()
  key = issueKey({ scopes: ['read:*', 'trade:orders'] }).record
  cache.apply(key)
  const failClosed = ({ scopes }: { scopes: readonly string[] }) => scopes.includes('trade:orders')
  sessions = createSessions({ keys, cache, environments: ['prod'], failClosed, mostRemembered: 20 })
  verify = sessions.verify
})

interface Made {
  readonly by?: Signer | { readonly privateKey: KeyObject | Uint8Array }
  readonly header?: object
  readonly claims?: Readonly<Record<string, unknown>>
}

const claimsOf = (claims: Made['claims'] = {}): JWTPayload => ({
  iss: SESSION_ISSUER,
  aud: sessionAudience('prod'),
  sub: key.clientId,
  client_id: key.clientId,
  key_id: key.keyId,
  scope: 'read:prices',
  jti: 'a',
  iat: S,
  exp: S + 600,
  ...claims,
})
const make = ({ by = signer, header = {}, claims }: Made = {}): Promise<string> =>
  new SignJWT(claimsOf(claims))
    .setProtectedHeader({ alg: 'EdDSA', typ: SESSION_TYPE, kid: signer.kid, ...header })
    .sign(by.privateKey)

const outcome = (token: string): string => verify(token, clock.now).outcome

test('a session is its key with fewer scopes, as long as it lives', async () => {
  const token = await make()
  const decision = verify(token, NOW)
  expect(decision).toMatchObject({
    outcome: 'accepted',
    key: { keyId: key.keyId, clientId: key.clientId, scopes: ['read:prices'] },
  })
  expect(decision.outcome === 'accepted' && decision.key.notBefore).toBe(Date.parse(key.notBefore))
  clock.now = NOW + 599_999
  await keys.refresh()
  expect(outcome(token)).toBe('accepted')
  clock.now = NOW + 600_000
  expect(verify(token, clock.now)).toMatchObject({ outcome: 'refused', reason: 'expired' })
})

test('a key that signs has sessions, too', async () => {
  for (const { record } of [issueHmac(), issueEd25519()]) {
    cache.apply(record)
    expect(outcome(await make({ claims: { key_id: record.keyId, sub: record.clientId, scope: '' } }))).toBe('accepted')
  }
})

test('it is remembered once its signature was right, for as long as the key that signed it is published', async () => {
  const token = await make()
  const forged = await make({ by: await newSigner() })
  for (const each of [token, forged]) expect(sessions.remembers(each)).toBe(false)
  expect([outcome(token), outcome(forged)]).toEqual(['accepted', 'unknown'])
  expect([sessions.remembers(token), sessions.remembers(forged)]).toEqual([true, false])
  plane.keys = []
  await keys.refresh()
  expect(sessions.remembers(token)).toBe(false)
})

test('it dies with its key: at once, whatever becomes of that', async () => {
  for (const change of [
    { state: 'deactivated' },
    { state: 'suspended' },
    { state: 'compromised' },
    { expiresAt: '2026-01-15T12:00:00.000Z' },
    { notBefore: '2026-01-15T12:00:01.000Z' },
    // What the key has lost, its sessions have lost.
    { scopes: ['trade:orders'] },
  ] as const) {
    const { record } = issueKey({ scopes: ['read:*'] })
    cache.apply(record)
    const token = await make({ claims: { key_id: record.keyId, sub: record.clientId } })
    expect(outcome(token)).toBe('accepted')
    cache.apply({ ...record, ...change, scopes: 'scopes' in change ? [...change.scopes] : record.scopes, revision: 2 })
    expect([change, outcome(token)]).toEqual([change, 'refused'])
  }
  const token = await make()
  expect(outcome(token)).toBe('accepted')
  cache.destroy(key.keyId)
  expect(outcome(token)).toBe('unknown')
})

test('what it has opened ends with it, or with its key, or when its key loses one of its scopes; a key’s own connections do not', async () => {
  const follow = createFollow(cache, clock.read)
  const ended: string[] = []
  const open = (name: string, key: KeyEntry) =>
    onTestFinished(follow({ headers: {}, address: undefined }, key, () => ended.push(name)))
  const session = async (claims: Readonly<Record<string, unknown>>): Promise<KeyEntry> => {
    const decision = verify(await make({ claims }), clock.now)
    if (decision.outcome !== 'accepted') throw new Error(decision.outcome)
    return decision.key
  }
  open('short', await session({ exp: S + 1 }))
  open('long', await session({ exp: S + 600 }))
  open('the key', cache.get(key.keyId) as KeyEntry)
  clock.now += 1_000
  await eventually(
    'the first one is over',
    () => [...ended],
    (it) => it.length > 0,
    5_000,
  )
  expect(ended).toEqual(['short'])
  cache.apply({ ...key, scopes: ['trade:orders'], revision: 2 })
  expect(ended).toEqual(['short', 'long'])
  open('traded anew', await session({ scope: 'trade:orders', exp: S + 600 }))
  cache.apply({ ...key, scopes: [], state: 'suspended', revision: 3 })
  expect(ended.slice(2).sort()).toEqual(['the key', 'traded anew'])
})

test('what the control plane did not sign for this key, this place and these scopes is refused', async () => {
  const other = await newSigner()
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const publicBytes = base64url.decode(signer.jwk['x'] ?? '')
  const good = await make()
  const [header = '', payload = '', signature = ''] = good.split('.')
  const wider = base64url.encode(JSON.stringify(claimsOf({ scope: 'read:prices trade:orders' })))
  const extended = { alg: 'EdDSA', typ: SESSION_TYPE, kid: signer.kid, crit: ['b64'], b64: true }
  const critical = `${base64url.encode(JSON.stringify(extended))}.${payload}`
  const foreign = issueKey({ environment: 'dev' }).record
  cache.apply(foreign)
  const tokens = {
    'alg none': new UnsecuredJWT(claimsOf()).encode(),
    'alg none, a signature beside it': `${base64url.encode(JSON.stringify({ alg: 'none', typ: SESSION_TYPE, kid: signer.kid }))}.${payload}.${signature}`,
    'HS256 with the public key as its secret': await make({ by: { privateKey: publicBytes }, header: { alg: 'HS256' } }),
    RS256: await make({ by: rsa, header: { alg: 'RS256' } }),
    'another key under the kid of ours': await make({ by: other }),
    'a key in its own header': await make({ by: other, header: { jwk: other.jwk } }),
    'another type': await make({ header: { typ: 'keyturn-fallback+jwt' } }),
    'no type': await make({ header: { typ: undefined } }),
    'a critical extension, rightly signed': `${critical}.${sign(null, Buffer.from(critical), signer.privateKey).toString('base64url')}`,
    'scopes widened': `${header}.${wider}.${signature}`,
    'no signature': `${header}.${payload}.AA`,
    'more scopes than its key': await make({ claims: { scope: 'read:prices withdraw:all' } }),
    'a pattern that is wider than the key': await make({ claims: { scope: 'trade:*' } }),
    'another environment': await make({ claims: { aud: sessionAudience('dev') } }),
    'a key of another environment': await make({ claims: { key_id: foreign.keyId, sub: foreign.clientId } }),
    'another issuer': await make({ claims: { iss: 'somebody' } }),
    'another client': await make({ claims: { sub: issueKey().record.clientId } }),
    'no key': await make({ claims: { key_id: issueKey().record.keyId } }),
    'no end': await make({ claims: { exp: undefined } }),
    expired: await make({ claims: { exp: S } }),
    'from the future': await make({ claims: { iat: S + 301, exp: S + 900 } }),
    'too long': `${header}.${'A'.repeat(9_000)}.${signature}`,
    'no JSON': `eyJ.eyJ.${signature}`,
  }
  for (const [name, token] of Object.entries(tokens)) expect([name, outcome(token)]).not.toContain('accepted')
  expect(outcome(good)).toBe('accepted')
  expect(createVerify(cache, ['prod'])(good, NOW).outcome, 'as a key').toBe('unknown')
  expect(plane.asked, 'none of them had the keys fetched').toBe(1)
})

test('a flood of ever new tokens, each of them right, is remembered within bounds; a wrong one not at all', async () => {
  const tokens = await Promise.all(Array.from({ length: 90 }, (_, i) => make({ claims: { jti: `j${i}` } })))
  for (const token of tokens) {
    expect(outcome(token)).toBe('accepted')
    expect(sessions.remembered).toBeLessThanOrEqual(20)
  }
  const before = sessions.remembered
  expect(before).toBeGreaterThan(0)
  // What was forgotten is verified anew, and what has come last is not remembered twice.
  expect([outcome(tokens.at(-1) ?? ''), sessions.remembered]).toEqual(['accepted', before])
  expect([outcome(await make({ by: await newSigner() })), sessions.remembered]).toEqual(['unknown', before])
  expect(outcome(tokens[0] ?? '')).toBe('accepted')
})

const { count, seed, text } = runsOf({ few: 2_000, many: 100_000 })

test(`a token of which anything is altered is an answer, never an exception, and never accepted (${text})`, async () => {
  const good = await make()
  const other = await make({ claims: { jti: 'b' } })
  const place = fc.nat(good.length - 1)
  const altered = fc.oneof(
    fc
      .tuple(place, fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }), fc.nat(3))
      .map(([from, put, cut]) => good.slice(0, from) + put + good.slice(from + cut)),
    // A digit of base64 in the place of another; the last one has bits that say nothing.
    fc
      .tuple(fc.oneof(place, fc.constant(good.length - 1)), fc.integer({ min: 1, max: 63 }))
      .map(([at, by]) => good.slice(0, at) + BASE64URL[(BASE64URL.indexOf(good[at] ?? '') + by) % 64] + good.slice(at + 1)),
    fc.tuple(place, place).map(([from, to]) => good.slice(0, from) + other.slice(to)),
    fc.string({ unit: 'binary', maxLength: 9_000 }).map((part) => `${good}${part}`),
    fc.array(fc.string({ unit: 'binary', maxLength: 40 }), { maxLength: 5 }).map((parts) => `eyJ${parts.join('.')}`),
  )
  const property = fc.property(altered, (token) => {
    fc.pre(token !== good && token !== other)
    return outcome(token) !== 'accepted'
  })
  fc.assert(property, { numRuns: count, seed })
  expect(outcome(good)).toBe('accepted')
})

test('a token of an unknown key has the set fetched once: nobody can tell until it is there, and a flood changes nothing', async () => {
  const next = await newSigner()
  const token = await make({ by: next, header: { kid: next.kid } })
  plane.keys = [signer.jwk, next.jwk]
  for (let i = 0; i < 50; i++) expect(outcome(token)).toBe('undecided')
  expect(await keys.refresh()).toBe(true)
  expect(outcome(token)).toBe('accepted')
  expect(plane.asked).toBe(2)
  const stranger = await newSigner()
  const forged = await make({ by: stranger, header: { kid: stranger.kid } })
  for (let i = 0; i < 50; i++) expect(outcome(forged)).toBe('unknown')
  expect(plane.asked).toBe(2)
  clock.now += 10_000
  expect(outcome(forged)).toBe('undecided')
  await keys.refresh()
  expect(outcome(forged)).toBe('unknown')
  expect(plane.asked).toBe(3)
  // A clock that was set back is no reason to wait.
  clock.now -= 1_000
  expect(outcome(forged)).toBe('undecided')
  await keys.refresh()
  expect(plane.asked).toBe(4)
  // A key that is not published any more verifies nothing, not even a token that it has verified before.
  plane.keys = [signer.jwk]
  await keys.refresh()
  expect(outcome(token)).toBe('unknown')
})

test('the keys are the control plane’s own: it sends nobody elsewhere for them', async () => {
  const stranger = await newSigner()
  const elsewhere = await startControlPlane(stranger)
  plane.status = 302
  plane.location = elsewhere.url
  expect(await keys.refresh()).toBe(false)
  expect(elsewhere.asked).toBe(0)
  expect(outcome(await make())).toBe('accepted')
})

test('while the control plane is away the known keys go on, and after five minutes not for fail-closed keys', async () => {
  const closed = await make({ claims: { exp: S + 3_600 } })
  const { record } = issueKey({ scopes: ['read:prices'] })
  cache.apply(record)
  const open = await make({ claims: { key_id: record.keyId, sub: record.clientId, exp: S + 3_600 } })
  for (const [status, published] of [
    [500, signer.jwk],
    [200, { ...signer.jwk, crv: 'X25519' }],
    [200, 'no key'],
  ] as const) {
    plane.status = status
    plane.keys = [published]
    expect(await keys.refresh()).toBe(false)
  }
  clock.now = NOW + 300_000
  expect([outcome(closed), outcome(open)]).toEqual(['accepted', 'accepted'])
  clock.now = NOW + 300_001
  expect([outcome(closed), outcome(open)]).toEqual(['undecided', 'accepted'])
})
