/** A signed request is accepted once: by one of three gateways, whatever they do at the same instant, and whoever of them is restarted. */
import { createLog } from '@keyturn/gateway'
import { expect, onTestFinished, test } from 'vitest'
import { createReplayGuard } from '../../../gateway/src/replay/create.ts'
import { MemoryGuard } from '../../../gateway/src/replay/memory.ts'
import { eventually } from '../../support/house.ts'
import { startRedis } from '../../support/redis.ts'
import { runsOf } from '../../support/runs.ts'
import { HOST, openOne, requestOf } from './one.ts'
import { issueEd25519, issueHmac, signMessage, signPlain } from './signing.ts'

const IDENTICAL = 64
/** Redis has remembered long enough for whatever is signed so much later than it began. */
const SETTLED_MS = 12_000
const url = `https://${HOST}/orders?limit=5`
const log = createLog('silent')

/** The clock of all gateways and their guards: it may be taken ahead, so that nobody has to wait. */
const ahead = { ms: 0 }
const clock = (): number => Date.now() + ahead.ms
const pass = (ms: number): number => {
  ahead.ms += ms
  return clock()
}

async function gatewaysOf(redis: { readonly url: string }, keys: Parameters<typeof openOne>[0], count: number) {
  const settings = {
    windowMs: 60_000,
    capacity: 100_000,
    reorder: 0,
    failOpen: [],
    redis: { url: redis.url, prefix: 't:', timeoutMs: 10_000 },
  }
  const guards = Array.from({ length: count }, () => createReplayGuard(settings, { startedAt: 0, clock, log }))
  onTestFinished(async () => void (await Promise.all(guards.map((guard) => guard.close()))))
  await eventually(() => guards.every(({ ready }) => ready), 'guards that are ready')
  const gateways = guards.map((replay) => openOne(keys, { replay }))
  for (const one of gateways) Object.defineProperty(one.clock, 'now', { get: clock })
  return { gateways, guards, now: pass(SETTLED_MS) }
}

const { count, text } = runsOf({ few: 12, many: 10_000 })

test(`64 identical requests at one instant over three gateways: one is accepted (${text})`, { timeout: 3_600_000 }, async () => {
  const redis = await startRedis()
  onTestFinished(() => redis.stop())
  const keys = [issueHmac(), issueEd25519()] as const
  const { gateways } = await gatewaysOf(redis, keys, 3)
  for (let round = 0; round < count; round++) {
    const now = clock()
    const headers =
      round % 3 === 2
        ? signPlain(keys[0], { url, timestamp: now })
        : await signMessage(keys[round % 2] ?? keys[0], { url, created: Math.floor(now / 1_000) })
    const request = { headers, url: '/orders?limit=5' }
    const codes = await Promise.all(Array.from({ length: IDENTICAL }, (_, i) => gateways[i % 3]?.code(request)))
    expect(codes.filter((code) => code === 'accepted')).toHaveLength(1)
    expect(codes.filter((code) => code === 'request-replayed')).toHaveLength(IDENTICAL - 1)
  }
  const counted = gateways.flatMap((gateway) => gateway.counted)
  expect(counted.filter(({ outcome }) => outcome === 'accepted')).toHaveLength(count)
  expect(counted.filter(({ outcome }) => outcome === 'replayed')).toHaveLength(count * (IDENTICAL - 1))
})

test('a gateway that was restarted accepts nothing again: with Redis it knows, alone it does not decide', async () => {
  const redis = await startRedis()
  onTestFinished(() => redis.stop())
  const key = issueHmac()
  const {
    gateways: [before],
    now,
  } = await gatewaysOf(redis, [key], 1)
  const headers = await signMessage(key, { url, created: Math.floor(now / 1_000) })
  const request = { headers, url: '/orders?limit=5' }
  expect(await before?.code(request)).toBe('accepted')
  const {
    gateways: [after],
  } = await gatewaysOf(redis, [key], 1)
  expect(await after?.code(request)).toBe('request-replayed')

  const alone = new MemoryGuard({ windowMs: 60_000, capacity: 100, reorder: 0, startedAt: now, failOpen: () => false, log })
  const restarted = openOne([key], { replay: alone })
  restarted.clock.now = now
  const answer = await restarted.authenticate(requestOf(request))
  expect(answer).toMatchObject({ problem: { code: 'gateway-undecided', status: 503 } })
  restarted.clock.now = now + 7_000
  const anew = await signMessage(key, { url, created: Math.floor(now / 1_000) + 6 })
  expect(await restarted.code({ headers: anew, url: '/orders?limit=5' })).toBe('accepted')
})

test('Redis killed and restarted in between: nothing is accepted twice, and it goes on', async () => {
  const redis = await startRedis()
  onTestFinished(() => redis.stop())
  const key = issueHmac()
  const { gateways, guards, now } = await gatewaysOf(redis, [key], 3)
  const sent = await Promise.all(Array.from({ length: 9 }, () => signMessage(key, { url, created: Math.floor(now / 1_000) })))
  const ask = (at: number, headers: Record<string, string>) => gateways[at % 3]?.code({ headers, url: '/orders?limit=5' })
  for (const [i, headers] of sent.entries()) expect(await ask(i, headers)).toBe('accepted')
  await redis.kill()
  for (const [i, headers] of sent.entries()) expect(await ask(i + 1, headers)).toBe('gateway-undecided')
  await redis.start()
  await eventually(() => guards.every(({ ready }) => ready), 'guards that are ready')
  const fresh = async (i: number) => ask(i, await signMessage(key, { url, created: Math.floor(clock() / 1_000) }))
  for (const i of [0, 1, 2]) expect(await fresh(i)).toBe('gateway-undecided')
  pass(SETTLED_MS)
  for (const i of [0, 1, 2]) await eventually(async () => (await fresh(i)) === 'accepted', 'it goes on')
  for (const [i, headers] of sent.entries()) expect(await ask(i, headers)).toBe('gateway-undecided')
})
