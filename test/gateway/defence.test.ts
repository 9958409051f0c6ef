/** Floods, nonsense, and what is told of a decision. */
import crypto from 'node:crypto'
import { createServer, type RequestListener } from 'node:http'
import { syncBuiltinESMExports } from 'node:module'
import { setImmediate as turn } from 'node:timers/promises'
import { createLog, createProxy, createVerify, type Gateway, KeyCache } from '@keyturn/gateway'
import { keyturn as forNode } from '@keyturn/gateway/node'
import { trace } from '@opentelemetry/api'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { createAuthenticate } from '../../gateway/src/authenticate.ts'
import { BadTokens } from '../../gateway/src/bad-tokens.ts'
import { traced } from '../../gateway/src/tracing.ts'
import { UsageWindow } from '../../gateway/src/usage-window.ts'
import { runsOf } from '../support/runs.ts'
import { CREATED, HOST, openOne } from './signatures/one.ts'
import { issueEd25519, issueHmac, type SigningPair, signMessage } from './signatures/signing.ts'
import { bearer, issueKey, NOW, TestClock } from './support.ts'
import { type Answered, ask, listen, shut } from './world.ts'

function open(limits: { perSecond?: number; mostAddresses?: number; mostHeld?: number } = {}) {
  const clock = new TestClock()
  const cache = new KeyCache()
  const keys = {
    good: issueKey(),
    revoked: issueKey({ state: 'deactivated' }),
    expired: issueKey({ expiresAt: new Date(NOW).toISOString() }),
    suspended: issueKey({ state: 'suspended' }),
    foreign: issueKey({ environment: 'dev' }),
  }
  for (const { record } of Object.values(keys)) cache.apply(record)
  const usage = new UsageWindow(NOW)
  const badTokens = new BadTokens({ perSecond: 2, clock: clock.read, ...limits })
  const authenticate = createAuthenticate({
    verify: createVerify(cache, ['prod']),
    usage: { count: (keyId, outcome, source) => usage.count(keyId, outcome, clock.now, source) },
    clock: clock.read,
    freshness: () => 'fresh',
    failClosed: () => false,
    retryAfterSeconds: 5,
    onOutcome: () => undefined,
    badTokens,
  })
  const held = (token: string, address: string) => {
    const answer = authenticate({ ...bearer(token), address })
    return answer.accepted ? 'accepted' : (answer.holdMs ?? 0)
  }
  return { authenticate, held, clock, cache, keys, usage, badTokens }
}

describe('a flood of bad tokens', () => {
  test('from one address has its refusals held back past the limit, all alike; right keys and other addresses never', () => {
    const { authenticate, held, keys, clock, badTokens } = open()
    const bad = [issueKey().token, keys.revoked.token, keys.expired.token, 'nonsense', 'x'.repeat(600)]
    const first = Array.from({ length: 10 }, (_, i) => held(bad[i % bad.length] ?? '', '192.0.2.1'))
    expect(first).toEqual(Array.from({ length: 10 }, () => 0))
    const answers = bad.map((token) => authenticate({ ...bearer(token), address: '192.0.2.1' }))
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
    expect(answers[0]).toMatchObject({ accepted: false, problem: { code: 'invalid-key', status: 401 }, holdMs: 1_000 })
    expect(held(keys.good.token, '192.0.2.1')).toBe('accepted')
    expect(held('nonsense', '192.0.2.2')).toBe(0)
    expect(badTokens.limited).toBe(5)
    clock.now += 1_000
    expect([1, 2, 3].map(() => held('nonsense', '192.0.2.1'))).toEqual([0, 0, 1_000])
  })

  test('is held back no longer than otherwise when the clock is set back', () => {
    const { held, clock } = open()
    for (let i = 0; i < 10; i++) held('nonsense', '192.0.2.1')
    clock.now -= 3_600_000
    expect(held('nonsense', '192.0.2.1')).toBe(1_000)
    clock.now += 1_000
    expect([1, 2, 3].map(() => held('nonsense', '192.0.2.1'))).toEqual([0, 0, 1_000])
  })

  test('from one network of IPv6 counts as one, IPv4 inside IPv6 as IPv4', () => {
    const { held } = open()
    for (let i = 0; i < 10; i++) held('nonsense', `2001:db8::${i}`)
    expect(held('nonsense', '2001:db8::ffff')).toBe(1_000)
    for (let i = 0; i < 10; i++) held('nonsense', '::ffff:192.0.2.1')
    expect(held('nonsense', '192.0.2.1')).toBe(1_000)
  })

  test('from ever new addresses is remembered within bounds, and holds back within bounds', () => {
    const { held, badTokens } = open({ mostAddresses: 100, mostHeld: 3 })
    for (let i = 0; i < 5_000; i++) held('nonsense', `10.0.${i >> 8}.${i & 255}`)
    expect(badTokens.addresses).toBe(100)
    const flood = Array.from({ length: 20 }, () => held('nonsense', '192.0.2.1'))
    expect(flood.filter((ms) => ms === 1_000)).toHaveLength(3)
  })

  test('leaves nothing in the usage that is reported', () => {
    const { authenticate, usage } = open()
    for (let i = 0; i < 2_000; i++)
      authenticate({ ...bearer(issueKey().token, `bot ${i}`), address: `10.0.${i >> 8}.${i & 255}` })
    expect(usage.size).toBe(0)
  })
})

/** As no other timer. */
const HOLD_MS = 987_654
/** @returns what ends the wait of each answer that is held back from now on: nobody has to wait for it */
function holdBack(): (() => void)[] {
  const waiting: (() => void)[] = []
  const start = globalThis.setTimeout
  const timers = vi.spyOn(globalThis, 'setTimeout').mockImplementation(((work: () => void, ms: number, ...more: []) => {
    if (ms === HOLD_MS) waiting.push(work)
    return start(work, ms, ...more)
  }) as typeof setTimeout)
  onTestFinished(() => timers.mockRestore())
  return waiting
}

describe.each<[string, (gateway: Pick<Gateway, 'authenticate' | 'refusedUpstream' | 'follow'>) => Promise<RequestListener>]>([
  ['the handler for node:http', async (gateway) => forNode({ gateway }, (_, response) => response.end('in'))],
  [
    'the reverse proxy',
    async (gateway) => {
      const api = createServer((_, response) => response.end('in'))
      onTestFinished(() => shut(api))
      const log = createLog('silent')
      const proxy = createProxy({ gateway, upstream: await listen(api), trustedProxies: 0, upstreamTimeoutMs: 5_000, log })
      onTestFinished(() => proxy.close())
      return (request, response) => void proxy.handle(request, response)
    },
  ],
])('%s', (_, make) => {
  test('sends a refusal that is held back when its time is over, the same as ever, and lets a right key in meanwhile', async () => {
    const { authenticate, keys } = open({ perSecond: 1 })
    let asked = 0
    const gateway = {
      authenticate: (...given: Parameters<typeof authenticate>) => {
        asked += 1
        const answer = authenticate(...given)
        return answer.accepted || answer.holdMs === undefined ? answer : { ...answer, holdMs: HOLD_MS }
      },
      refusedUpstream: () => undefined,
      follow: () => () => undefined,
    }
    const server = createServer(await make(gateway))
    onTestFinished(() => shut(server))
    const url = await listen(server)
    const right = async () => (await ask(url, ['X-API-Key', keys.good.token])).status
    const bad = () => ask(url, ['X-API-Key', 'nonsense'])
    const told = ({ status, body, headers: { date, ...headers } }: Answered) => ({ status, body, headers })
    const waiting = holdBack()
    const atOnce: Answered[] = []
    for (let i = 0; i < 5; i++) atOnce.push(await bad())
    let answered = false
    const held = bad().finally(() => (answered = true))
    while (asked < 6) await turn()
    expect([await right(), answered, waiting.length]).toEqual([200, false, 1])
    waiting[0]?.()
    const answers = [...atOnce, await held].map(told)
    expect(answers[0]).toMatchObject({ status: 401 })
    for (const answer of answers) expect(answer).toEqual(answers[0])
  })
})

describe('what a refusal takes does not tell what is wrong with the key', () => {
  /** What of Node's own work is done meanwhile. */
  const taken = async (what: () => unknown): Promise<{ hashes: number; verified: number }> => {
    const done = { hashes: 0, verified: 0 }
    const { hash, verify } = crypto
    const counting =
      <Given extends unknown[]>(name: keyof typeof done, real: (...given: Given) => unknown) =>
      (...given: Given) => {
        done[name] += 1
        return real(...given)
      }
    Object.assign(crypto, { hash: counting('hashes', hash), verify: counting('verified', verify) })
    syncBuiltinESMExports()
    try {
      await what()
    } finally {
      Object.assign(crypto, { hash, verify })
      syncBuiltinESMExports()
    }
    return done
  }

  test('a token takes one hash and one look-up', async () => {
    const { authenticate, cache, keys } = open()
    const { good, ...ended } = keys
    const altered = `${good.token.slice(0, -1)}${good.token.endsWith('0') ? '1' : '0'}`
    const lookUps = vi.spyOn(cache, 'find')
    const other = vi.spyOn(cache, 'get')
    const tokens = [good, issueKey(), ...Object.values(ended)].map(({ token }) => token)
    for (const token of [...tokens, altered, 'nonsense']) {
      lookUps.mockClear()
      expect(await taken(() => authenticate(bearer(token)))).toEqual({ hashes: 1, verified: 0 })
      expect(lookUps).toHaveBeenCalledTimes(1)
    }
    expect(other).not.toHaveBeenCalled()
  })

  test.each([
    ['hmac-sha256', issueHmac, { hashes: 2, verified: 0 }],
    ['ed25519', issueEd25519, { hashes: 0, verified: 1 }],
  ] as const)('a signature of %s takes the check of one signature', async (_, issue, expected) => {
    const expired = { expiresAt: new Date(NOW).toISOString() }
    const known = [issue(), issue({ state: 'deactivated' }), issue({ state: 'suspended' }), issue(expired)]
    const [good = issue()] = known
    const { code } = openOne(known)
    const signed = (key: SigningPair) => signMessage(key, { url: `https://${HOST}/`, created: CREATED })
    // Sealed keys are opened when they are first asked for.
    for (const key of known) await code({ headers: await signed(key) })
    for (const key of [...known.slice(1), issue(), { ...issue(), record: good.record }]) {
      const headers = await signed(key)
      let said = ''
      const spent = await taken(async () => (said = await code({ headers })))
      expect([said, spent]).toEqual(['invalid-key', expected])
    }
  })
})

describe('whatever is sent', () => {
  const { count, seed, text } = runsOf({ few: 3_000, many: 100_000 })
  const { authenticate, keys } = open()
  const [brand = '', environment = '', keyId = '', rest = ''] = keys.good.token.split('_')
  /** Right keys with something wrong about them, and anything at all. */
  const near = fc
    .tuple(fc.nat(keys.good.token.length - 1), fc.string({ unit: 'binary', minLength: 1, maxLength: 3 }))
    .map(([at, other]) => keys.good.token.slice(0, at) + other + keys.good.token.slice(at + 1))
  const token = fc.oneof(
    near,
    fc.string({ unit: 'binary', maxLength: 700 }),
    fc.string({ unit: 'grapheme', maxLength: 80 }),
    fc.constantFrom(
      keys.revoked.token,
      keys.good.token.toUpperCase(),
      keyId,
      rest,
      `${brand}_${environment}_${keyId}_`,
      `${keys.good.token}\0`,
    ),
  )
  const field = fc.oneof(
    token,
    token.map((it) => `Bearer ${it}`),
    token.map((it) => `bearer\t${it}`),
    fc.array(
      token.map((it) => `Bearer ${it}`),
      { maxLength: 3 },
    ),
    fc.constant(undefined),
  )
  const headers = fc.record({ authorization: field, 'x-api-key': field, 'user-agent': field })

  test(`is an answer, never an exception, and never accepted (${text})`, () => {
    const property = fc.property(headers, fc.oneof(fc.ipV4(), fc.ipV6(), token), (given, address) => {
      const shown = [given.authorization, given['x-api-key']].flat().filter((it) => it !== undefined)
      const right = shown.some((it) => it.replace(/^(bearer +)?[ \t]*/i, '').replace(/[ \t]+$/, '') === keys.good.token)
      fc.pre(!right)
      const answer = authenticate({ headers: given, address })
      return !answer.accepted && answer.problem.status === 401
    })
    fc.assert(property, { numRuns: count, seed })
  })
})

test('a right key with blanks of other alphabets around it is another key', () => {
  const { authenticate, keys } = open()
  const { token } = keys.good
  for (const shown of [`${token}\u00a0`, `\u00a0${token}`, `${token}\u3000`, `${token}\ufeff`, `${token}\v`]) {
    expect(authenticate(bearer(shown)).accepted).toBe(false)
    expect(authenticate({ headers: { 'x-api-key': shown }, address: undefined }).accepted).toBe(false)
  }
  expect(authenticate({ headers: { 'x-api-key': `\t${token} ` }, address: undefined }).accepted).toBe(true)
})

test('G5: a span per decision says what became of it and which key it was, and nothing of what was shown', () => {
  const exporter = new InMemorySpanExporter()
  const provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] })
  expect(trace.getTracer('nobody set one up').startSpan('x').isRecording()).toBe(false)
  const { authenticate, keys } = open()
  const observed = traced(provider.getTracer('test'), authenticate)
  for (const shown of [keys.good.token, keys.revoked.token, 'nonsense']) observed(bearer(shown))
  observed(bearer(keys.good.token), ['trade:write'])
  const spans = exporter.getFinishedSpans()
  expect(spans.map(({ name, attributes }) => [name, attributes])).toEqual([
    ['keyturn.authenticate', { 'keyturn.outcome': 'accepted', 'keyturn.key_id': keys.good.record.keyId }],
    ['keyturn.authenticate', { 'keyturn.outcome': 'invalid-key' }],
    ['keyturn.authenticate', { 'keyturn.outcome': 'invalid-key' }],
    ['keyturn.authenticate', { 'keyturn.outcome': 'missing-scope' }],
  ])
  const told = JSON.stringify(spans.map(({ name, attributes, events, status }) => ({ name, attributes, events, status })))
  for (const { token } of Object.values(keys)) expect(told).not.toContain(token.split('_')[3])
})
