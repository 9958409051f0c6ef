/** The replay guard that gateways share, on a real Redis: raced, killed, emptied, frozen and filled up. */
import { createLog, type Log } from '@keyturn/gateway'
import { expect, onTestFinished, test } from 'vitest'
import { createReplayGuard, type ReplaySettings } from '../../../gateway/src/replay/create.ts'
import type { ReplayGuard, ReplayInput, Verdict } from '../../../gateway/src/replay/guard.ts'
import { eventually } from '../../support/house.ts'
import { type RunningRedis, startRedis } from '../../support/redis.ts'
import { runsOf } from '../../support/runs.ts'

const IDENTICAL = 64
/** Redis has remembered long enough for whatever is signed so much later than it began. */
const SETTLED_MS = 12_000
const CLOSED = ['trade:orders']
const OPEN = ['read:prices']

let serial = 0
const request = (now: number, more: Partial<ReplayInput> = {}): ReplayInput => {
  serial += 1
  return { keyId: 'A'.repeat(16), nonce: `n${serial}`, created: Math.floor(now / 1_000), scopes: CLOSED, ...more }
}

async function redisOf(settings: readonly string[] = []): Promise<RunningRedis> {
  const redis = await startRedis(settings)
  onTestFinished(() => redis.stop())
  return redis
}

/** The clock of all gateways: it may be taken ahead, so that nobody has to wait. */
const ahead = { ms: 0 }
const clock = (): number => Date.now() + ahead.ms
const pass = (ms: number): number => {
  ahead.ms += ms
  return clock()
}

async function guards(redis: RunningRedis, count: number, more: Partial<ReplaySettings> = {}, log: Log = createLog('silent')) {
  const settings: ReplaySettings = {
    windowMs: 60_000,
    capacity: 100_000,
    reorder: 8,
    failOpen: ['read:*'],
    redis: { url: redis.url, prefix: 'test:', timeoutMs: 5_000 },
    ...more,
  }
  const made = Array.from({ length: count }, () => createReplayGuard(settings, { startedAt: 0, clock, log }))
  onTestFinished(async () => void (await Promise.all(made.map((guard) => guard.close()))))
  await eventually(() => made.every(({ ready }) => ready), 'guards that are ready')
  return made
}

const oneGuard = async (redis: RunningRedis, more: Partial<ReplaySettings> = {}): Promise<ReplayGuard> => {
  const [guard] = await guards(redis, 1, more)
  if (guard === undefined) throw new Error('there is no guard')
  return guard
}

/** One request, sent so many times at one instant, over all guards in turn. */
const race = async (over: readonly ReplayGuard[], input: ReplayInput, now: number): Promise<Verdict[]> =>
  Promise.all(Array.from({ length: IDENTICAL }, async (_, i) => over[i % over.length]?.check(input, now) ?? 'unavailable'))

const freshIn = (verdicts: readonly Verdict[]): number => verdicts.filter((verdict) => verdict === 'fresh').length

const rounds = runsOf({ few: 150, many: 10_000 })

test(`64 identical requests at one instant over three gateways are accepted once, while Redis is killed and restarted (${rounds.text})`, async () => {
  const redis = await redisOf()
  const over = await guards(redis, 3)
  const kills = new Set([Math.floor(rounds.count / 3), Math.floor((2 * rounds.count) / 3)])
  pass(SETTLED_MS)
  let restarting: Promise<void> | undefined
  let recent: ReplayInput[] = []
  let decided = 0
  for (let round = 0; round < rounds.count; round++) {
    const now = clock()
    const input = request(now)
    if (kills.has(round)) restarting = redis.kill().then(() => redis.start())
    const disturbed = restarting !== undefined
    const verdicts = await race(over, input, now)
    recent.push(input)
    expect(freshIn(verdicts)).toBeLessThanOrEqual(1)
    if (!disturbed) {
      expect(freshIn(verdicts)).toBe(1)
      expect(verdicts.filter((verdict) => verdict === 'replayed')).toHaveLength(IDENTICAL - 1)
      decided += 1
      continue
    }
    await restarting
    await eventually(() => over.every(({ ready }) => ready), 'guards that have found Redis again')
    restarting = undefined
    // What it accepted before its death is gone from its memory, and refused all the same.
    for (const old of recent) expect(freshIn(await race(over, old, now))).toBe(0)
    recent = []
    pass(SETTLED_MS)
  }
  expect(decided).toBe(rounds.count - kills.size)
}, 3_600_000)

test('a Redis that comes back from an old snapshot, or was emptied, accepts nothing a second time', async () => {
  const redis = await redisOf()
  const guard = await oneGuard(redis)
  const now = pass(SETTLED_MS)
  const kept = request(now)
  expect(await guard.check(kept, now)).toBe('fresh')
  await redis.command('SAVE')
  const lost = request(now)
  expect(await guard.check(lost, now)).toBe('fresh')
  await redis.kill()
  await redis.start()
  await eventually(() => guard.ready, 'the guard again')
  expect(await redis.command('EXISTS', 'test:born'), 'the snapshot was loaded').toBe(1)
  expect([await guard.check(lost, now), await guard.check(kept, now)]).toEqual(['unavailable', 'unavailable'])
  const later = pass(SETTLED_MS)
  const next = request(later)
  expect([await guard.check(next, later), await guard.check(next, later)]).toEqual(['fresh', 'replayed'])

  await redis.command('FLUSHALL')
  expect(await guard.check(next, later)).toBe('unavailable')
  // A client whose clock is ahead may have had this accepted before the Redis was emptied.
  const soon = pass(6_000)
  expect(await guard.check(request(soon, { created: Math.floor(soon / 1_000) + 3 }), soon)).toBe('unavailable')
  const settled = pass(SETTLED_MS)
  expect(await guard.check(request(settled), settled)).toBe('fresh')
})

test('a nonce is kept for as long as any gateway may take its request for timely: 5 s ahead, the window, and 5 s between their clocks', async () => {
  const redis = await redisOf()
  const guard = await oneGuard(redis)
  const now = pass(SETTLED_MS)
  expect(await guard.check(request(now, { created: Math.floor(now / 1_000) + 5 }), now)).toBe('fresh')
  const [name] = (await redis.command('KEYS', 'test:n:*')) as string[]
  const left = Number(await redis.command('PTTL', name ?? ''))
  expect(left).toBeLessThanOrEqual(70_000)
  expect(left).toBeGreaterThan(65_000)
})

test('while Redis is away or stands still, fail-closed keys are refused and fail-open ones checked here', async () => {
  const redis = await redisOf()
  const guard = await oneGuard(redis, { redis: { url: redis.url, prefix: 'test:', timeoutMs: 300 } })
  const now = pass(SETTLED_MS)
  const open = request(now, { scopes: OPEN })
  expect(await guard.check(open, now)).toBe('fresh')
  redis.freeze()
  expect(await guard.check(request(now), now)).toBe('unavailable')
  expect([await guard.check(request(now, { scopes: OPEN }), now), await guard.check(open, now)]).toEqual(['fresh', 'replayed'])
  redis.thaw()
  await redis.kill()
  await eventually(() => !guard.ready, 'the guard without Redis')
  expect(await guard.check(request(now, { scopes: [...OPEN, ...CLOSED] }), now)).toBe('unavailable')
  expect([await guard.check(request(now, { scopes: OPEN }), now), await guard.check(open, now)]).toEqual(['fresh', 'replayed'])
  await redis.start()
  await eventually(() => guard.ready, 'Redis at work again')
  const later = pass(SETTLED_MS)
  expect(await guard.check(request(later), later)).toBe('fresh')
})

test('sequences are one over all gateways, and end in the same verdicts as in one process', async () => {
  const redis = await redisOf()
  const over = await guards(redis, 3, { reorder: 2 })
  const local = createReplayGuard(
    { windowMs: 60_000, capacity: 100, reorder: 2, failOpen: [] },
    { startedAt: 0, clock, log: createLog('silent') },
  )
  const now = pass(SETTLED_MS)
  const numbers = [10, 12, 11, 12, 10, 9, 100, 98, 97, 99, 131, 130, 163, 162, 2 ** 52, 2 ** 52 - 2, 2 ** 52 - 3, 5, -1, 0.5]
  for (const [i, sequence] of numbers.entries()) {
    const input = request(now, { sequence })
    const shared = await over[i % 3]?.check(input, now)
    expect(shared, `at ${sequence}`).toBe(await local.check(input, now))
  }
  // Two requests with one number at one instant: one of them counts.
  const verdicts = await Promise.all(over.map((guard) => guard.check(request(now, { sequence: 2 ** 52 + 7 }), now)))
  expect(verdicts.sort()).toEqual(['fresh', 'out-of-order', 'out-of-order'])
})

test('a Redis that is full refuses; one that may evict nonces is not used; its password is in no log', async () => {
  const redis = await redisOf(['--maxmemory-policy', 'noeviction', '--requirepass', 'hunter2-hunter2'])
  const url = redis.url.replace('//', '//:hunter2-hunter2@')
  let text = ''
  const log = createLog('trace', {
    write: (line: string) => {
      text += line
    },
  })
  const settings = { redis: { url, prefix: 'test:', timeoutMs: 5_000 } }
  const [guard] = await guards(redis, 1, settings, log)
  const now = pass(SETTLED_MS)
  expect(await guard?.check(request(now), now)).toBe('fresh')
  await redis.command('CONFIG', 'SET', 'maxmemory', '1')
  expect(await guard?.check(request(now), now)).toBe('full')
  await redis.command('CONFIG', 'SET', 'maxmemory', '100mb')
  await redis.command('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru')
  const evicting = createReplayGuard(
    { windowMs: 60_000, capacity: 10, reorder: 0, failOpen: [], ...settings },
    { startedAt: 0, clock, log },
  )
  onTestFinished(() => evicting.close())
  await eventually(() => text.includes('set its maxmemory-policy to noeviction'), 'the complaint')
  await redis.command('PING')
  expect(await evicting.check(request(now), now)).toBe('unavailable')
  expect(text).toContain('FULL: Redis has no room for nonces')
  expect(text).not.toContain('hunter2')
})
