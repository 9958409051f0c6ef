/**
 * What it costs to accept a signed request once: in one process beside a Map of the same nonces, and over Redis beside the bare
 * `SET NX PX`, pipelined alike. And how much memory a nonce takes in each.
 */

import { setImmediate as nextTurn } from 'node:timers/promises'
import { createLog } from '@keyturn/gateway'
import { createClient } from '@redis/client'
import { MemoryGuard } from '../gateway/src/replay/memory.ts'
import { RedisGuard } from '../gateway/src/replay/redis.ts'
import { startRedis } from '../test/support/redis.ts'
import { settledMemory } from './memory.ts'
import { median } from './statistics.ts'

const WINDOW_MS = 60_000
/** Requests on their way to Redis at one time. */
const IN_FLIGHT = 256
const log = createLog('silent')

export interface ReplayFigures {
  readonly nonces: number
  readonly rounds: number
  /** Microseconds for one, medians over the rounds. */
  readonly us: { readonly guard: number; readonly map: number; readonly redisGuard: number; readonly redisSet: number }
  readonly bytes: { readonly guard: number; readonly map: number; readonly redisGuard: number; readonly redisSet: number }
  /** Medians over the rounds of the ratio in each. */
  readonly overMap: number
  readonly overSet: number
}

const nonceOf = (i: number): string => `${(i * 2_654_435_761) % 2 ** 32}-${i.toString(36).padStart(12, '0')}`

export async function measureReplay({
  nonces = 500_000,
  rounds = 20,
  perRound = 5_000,
  overRedis = 100_000,
} = {}): Promise<ReplayFigures> {
  const now = Date.now()
  const created = Math.floor(now / 1_000)
  const keyIds = Array.from({ length: 1_000 }, (_, i) => i.toString(36).padStart(16, '0'))
  const inputOf = (i: number) => ({
    keyId: keyIds[i % 1_000] ?? '',
    nonce: nonceOf(i),
    created: created - (i % 55),
    scopes: ['trade:orders'],
  })
  const guard = new MemoryGuard({
    windowMs: WINDOW_MS,
    capacity: 10 * nonces,
    reorder: 0,
    startedAt: 0,
    failOpen: () => false,
    log,
  })
  const map = new Map<string, number>()
  const guarded = (i: number): boolean => guard.check(inputOf(i), now) === 'fresh'
  const mapped = (i: number): boolean => {
    const { keyId, nonce, created: at } = inputOf(i)
    const name = `${keyId} ${nonce}`
    if (map.has(name)) return false
    map.set(name, at)
    return true
  }
  const bytesOf = async (accept: (i: number) => boolean): Promise<number> => {
    const before = await settledMemory()
    for (let i = 0; i < nonces; i++) if (!accept(i)) throw new Error('the bench is wrong: a fresh nonce was refused')
    return ((await settledMemory()) - before) / nonces
  }
  const guardBytes = await bytesOf(guarded)
  const mapBytes = await bytesOf(mapped)
  const times = { guard: [] as number[], map: [] as number[] }
  const contestants = [
    ['guard', guarded],
    ['map', mapped],
  ] as const
  for (let round = 0; round < rounds; round++) {
    for (const turn of [0, 1]) {
      const [name, accept] = contestants[(round + turn) % 2] ?? contestants[0]
      const start = process.hrtime.bigint()
      for (let i = 0; i < perRound; i++) accept(nonces + round * perRound + i)
      times[name].push(Number(process.hrtime.bigint() - start) / 1_000 / perRound)
    }
    await nextTurn()
  }
  return { nonces, rounds, ...(await measureRedis(overRedis, rounds, inputOf, { guardBytes, mapBytes, times })) }
}

async function measureRedis(
  count: number,
  rounds: number,
  inputOf: (i: number) => { keyId: string; nonce: string; created: number; scopes: string[] },
  local: { guardBytes: number; mapBytes: number; times: { guard: number[]; map: number[] } },
): Promise<Pick<ReplayFigures, 'us' | 'bytes' | 'overMap' | 'overSet'>> {
  const redis = await startRedis()
  const client = createClient({ url: redis.url, commandOptions: { timeout: 0 } })
  await client.connect()
  // As old as a Redis has to be that is believed at once.
  const ahead = 20_000
  const clock = () => Date.now()
  const memory = new MemoryGuard({ windowMs: WINDOW_MS, capacity: 1, reorder: 0, startedAt: 0, failOpen: () => false, log })
  const options = {
    url: redis.url,
    prefix: 'b:',
    timeoutMs: 30_000,
    windowMs: 120_000,
    reorder: 0,
    failOpen: () => false,
    local: memory,
    clock,
    log,
  }
  const guard = new RedisGuard(options)
  while (!guard.ready) await nextTurn()
  const contestants = {
    redisGuard: async (i: number) => {
      const input = inputOf(i)
      return (
        (await guard.check({ ...input, created: input.created + ahead / 1_000 + 60 }, Date.now() + ahead + 60_000)) === 'fresh'
      )
    },
    redisSet: async (i: number) => {
      const { keyId, nonce } = inputOf(i)
      return (
        (await client.set(`b:bare:${keyId}:${nonce}`, '1', { condition: 'NX', expiration: { type: 'PX', value: 65_000 } })) ===
        'OK'
      )
    },
  }
  const used = async (): Promise<number> =>
    Number(/used_memory:(\d+)/.exec(String(await client.sendCommand(['INFO', 'memory'])))?.[1])
  const us = { redisGuard: [] as number[], redisSet: [] as number[] }
  const bytes = { redisGuard: 0, redisSet: 0 }
  const perRound = Math.ceil(count / rounds)
  for (let round = 0; round < rounds; round++) {
    for (const turn of [0, 1]) {
      const name = (round + turn) % 2 === 0 ? 'redisGuard' : 'redisSet'
      const before = await used()
      const start = process.hrtime.bigint()
      const lanes = Array.from({ length: IN_FLIGHT }, async (_, lane) => {
        for (let i = lane; i < perRound; i += IN_FLIGHT)
          if (!(await contestants[name](round * perRound + i)))
            throw new Error(`the bench is wrong: ${name} refused a fresh nonce`)
      })
      await Promise.all(lanes)
      us[name].push(Number(process.hrtime.bigint() - start) / 1_000 / perRound)
      bytes[name] += ((await used()) - before) / perRound / rounds
    }
  }
  client.destroy()
  await guard.close()
  await redis.stop()
  const { guardBytes, mapBytes, times } = local
  return {
    us: { guard: median(times.guard), map: median(times.map), redisGuard: median(us.redisGuard), redisSet: median(us.redisSet) },
    bytes: { guard: guardBytes, map: mapBytes, ...bytes },
    overMap: median(times.guard.map((t, i) => t / (times.map[i] ?? t))),
    overSet: median(us.redisGuard.map((t, i) => t / (us.redisSet[i] ?? t))),
  }
}
