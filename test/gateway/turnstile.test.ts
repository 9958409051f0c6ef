/** Ed25519 signatures from an address past its limit of bad tokens: they wait before they are checked. */
import { randomBytes } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import { SESSION_TYPE } from '@keyturn/contract'
import { expect, test, vi } from 'vitest'
import { BadTokens } from '../../gateway/src/bad-tokens.ts'
import { createSessionTurn } from '../../gateway/src/session-turn.ts'
import { Turnstile, type TurnstileOptions } from '../../gateway/src/turnstile.ts'
import { CREATED, HOST, openOne, requestOf } from './signatures/one.ts'
import { issueEd25519, issueHmac, type SigningPair, signMessage } from './signatures/signing.ts'
import { bearer, TestClock } from './support.ts'

/** Waiting is over when `pass` says so. The attacker's address is past its limit, others are not. */
function open(options: Partial<TurnstileOptions> = {}) {
  const waiting: (() => void)[] = []
  const turnstile = new Turnstile({
    badTokens: { isPastLimit: (address) => address === '192.0.2.66' },
    wait: () => new Promise((resolve) => waiting.push(resolve)),
    ...options,
  })
  const pass = async () => {
    for (const resolve of waiting.splice(0)) resolve()
    await turn()
  }
  return { turnstile, waiting, pass }
}

test('an address is past its limit when the next refusal would be held back, and until it has been quiet', () => {
  const clock = new TestClock()
  const badTokens = new BadTokens({ perSecond: 2, clock: clock.read })
  const past = () => badTokens.isPastLimit('192.0.2.1')
  expect(past()).toBe(false)
  for (let i = 0; i < 10; i++) expect([past(), badTokens.holdMs('192.0.2.1')]).toEqual([false, 0])
  expect([past(), badTokens.isPastLimit('192.0.2.2')]).toEqual([true, false])
  clock.now += 500
  expect(past()).toBe(false)
  expect(new BadTokens({ perSecond: 0, clock: clock.read }).isPastLimit('192.0.2.1')).toBe(false)
})

test('so many of one address are checked after their second, the others not; all that wait are bounded', async () => {
  const { turnstile, waiting, pass } = open({ mostEach: 2, most: 4 })
  expect(turnstile.enter('192.0.2.1')).toBeUndefined()
  const turns = Array.from({ length: 5 }, () => turnstile.enter('192.0.2.66'))
  expect(waiting).toHaveLength(4)
  await pass()
  expect(await Promise.all(turns)).toEqual([true, true, false, false, false])
  const again = turnstile.enter('192.0.2.66')
  await pass()
  expect(await again).toBe(true)
})

test('the keys that were right are remembered by address, within bounds', () => {
  const { turnstile } = open({ mostRight: 2 })
  const waits = (keyId: string) => turnstile.enter('192.0.2.66', keyId) !== undefined
  turnstile.right('192.0.2.1', 'elsewhere')
  for (const keyId of ['a', 'b', 'a', 'c']) turnstile.right('192.0.2.66', keyId)
  expect(['elsewhere', 'a', 'b', 'c'].map(waits)).toEqual([true, false, true, false])
  turnstile.wrong('192.0.2.66', 'a')
  expect(['a', 'c'].map(waits)).toEqual([true, false])
})

test('a signature from there is checked when it has waited; not one of a key that has been right from there', async () => {
  const [key, known, hmac, ended] = [issueEd25519(), issueEd25519(), issueHmac(), issueEd25519({ state: 'deactivated' })]
  const { turnstile, waiting, pass } = open({ mostEach: 3 })
  const { authenticate, signingKeys } = openOne([key, known, hmac, ended], { turnstile })
  const checks = vi.spyOn(signingKeys, 'check')
  const send = async (by: SigningPair, address = '192.0.2.66') => {
    const headers = await signMessage(by, { url: `https://${HOST}/`, created: CREATED })
    const answer = Promise.resolve(authenticate(requestOf({ headers, address })))
    await turn()
    return answer.then((decided) => (decided.accepted ? 'accepted' : decided.problem.code))
  }
  const settled = <T>(what: Promise<T>) => Promise.race([what, turn().then(() => 'waits')])
  const forged = { ...issueEd25519(), record: key.record }
  expect(await send(hmac)).toBe('accepted')
  turnstile.right('192.0.2.66', known.record.keyId)
  expect(await send(known)).toBe('accepted')
  expect(await send(key, '192.0.2.1')).toBe('accepted')
  checks.mockClear()

  const flood = [forged, forged, key, forged].map((by) => send(by))
  await vi.waitFor(() => expect(waiting).toHaveLength(4))
  expect([await settled(Promise.race(flood)), checks.mock.calls.length]).toEqual(['waits', 0])
  expect(await send(known)).toBe('accepted')
  checks.mockClear()
  await pass()
  expect((await Promise.all(flood)).sort()).toEqual(['accepted', 'gateway-undecided', 'invalid-key', 'invalid-key'])
  expect(checks).toHaveBeenCalledTimes(3)

  // Once it was accepted from there it waits no more, until one of its name is wrong; one that has ended never gets so far.
  expect(await send(key)).toBe('accepted')
  expect(await send(forged)).toBe('invalid-key')
  for (const by of [key, ended]) {
    const answer = send(by)
    await vi.waitFor(() => expect(waiting).toHaveLength(1))
    await pass()
    expect(await answer).toBe(by === key ? 'accepted' : 'invalid-key')
  }
  const again = send(ended)
  await vi.waitFor(() => expect(waiting).toHaveLength(1))
  await pass()
  expect(await again).toBe('invalid-key')
})

test('a session token from there is checked when it has waited, unless it is known; a key that is shown is decided on at once', async () => {
  const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const session = `${encoded({ alg: 'EdDSA', typ: SESSION_TYPE })}.${encoded({ iss: 'keyturn' })}.${randomBytes(64).toString('base64url')}`
  const { turnstile, waiting, pass } = open({ mostEach: 1 })
  const outcomes: string[] = []
  const shown: string[] = []
  const refused = { accepted: false, problem: { code: 'invalid-key' }, responseHeaders: {} } as never
  const authenticate = createSessionTurn(
    ({ headers }) => {
      shown.push(String(headers['authorization']))
      return refused
    },
    {
      sessions: { remembers: (token) => token === `${session}known` },
      turnstile,
      onOutcome: (outcome) => outcomes.push(outcome),
      usage: { count: () => undefined },
      badTokens: { holdMs: () => 0 },
      retryAfterSeconds: 5,
    },
  )
  const from = (address: string, token: string) => authenticate({ ...bearer(token), address })
  for (const token of ['kt_prod_x', `${session}known`]) expect(from('192.0.2.66', token)).toBe(refused)
  expect(from('192.0.2.1', session)).toBe(refused)
  expect(authenticate({ headers: {}, address: '192.0.2.66' })).toBe(refused)
  shown.length = 0
  const answers = [from('192.0.2.66', session), from('192.0.2.66', session)]
  await turn()
  expect([shown, waiting.length]).toEqual([[], 2])
  await pass()
  expect(await Promise.all(answers)).toMatchObject([
    { problem: { code: 'invalid-key' } },
    { problem: { code: 'gateway-undecided' }, responseHeaders: { 'retry-after': '5' } },
  ])
  expect([shown, outcomes]).toEqual([[`Bearer ${session}`], ['undecided']])
})
