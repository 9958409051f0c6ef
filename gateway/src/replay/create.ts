/** The replay guard of a gateway, as it is configured. */
import { uncovered } from '@keyturn/contract'
import type { Log } from '../log.ts'
import type { ReplayGuard } from './guard.ts'
import { MemoryGuard } from './memory.ts'
import { type RedisAddress, RedisGuard } from './redis.ts'

export interface ReplaySettings {
  /** For how long a signed request is valid: 30 s to 120 s. */
  readonly windowMs: number
  /** How many nonces this process remembers at most. */
  readonly capacity: number
  /** How far a sequence number may be behind the highest of its key: 0 to 31. */
  readonly reorder: number
  /** Scope patterns: a key all of whose scopes they cover is served even while nobody can tell what was accepted before. */
  readonly failOpen: readonly string[]
  /** What the gateways share. Without it each knows its own nonces alone: enough for one gateway. */
  readonly redis?: RedisAddress | undefined
}

export const DEFAULT_REPLAY: ReplaySettings = { windowMs: 60_000, capacity: 1_000_000, reorder: 16, failOpen: [] }

/**
 * @param process.startedAt when it began, ms since the epoch
 * @param process.clock ms since the epoch
 */
export function createReplayGuard(
  settings: ReplaySettings,
  { startedAt, clock, log }: { startedAt: number; clock: () => number; log: Log },
): ReplayGuard {
  const failOpen = (scopes: readonly string[]): boolean => scopes.length > 0 && uncovered(settings.failOpen, scopes) === undefined
  const { windowMs, capacity, reorder, redis } = settings
  const local = new MemoryGuard({ windowMs, capacity, reorder, startedAt, failOpen, log })
  return redis === undefined ? local : new RedisGuard({ ...redis, windowMs, reorder, failOpen, local, clock, log })
}
