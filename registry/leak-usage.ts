/** Who has used a leaked key since it was reported. */
import type { LeakId } from '@keyturn/contract'
import type { Database } from './database.ts'
import { getLeak, type KnownUsage, USAGE_OF } from './leaks.ts'
import { SOURCES_KEPT } from './usage-limits.ts'

export interface UsedFrom {
  readonly address: string
  readonly userAgent: string
  /** Requests since the report. */
  readonly count: number
  readonly lastAt: string
}

/**
 * Counted is what gateways have reported since the leak was recorded. They report in windows, so that requests of the seconds before
 * it may be among them; none of those after it is missing up to `knownThrough`.
 */
export interface UsageSinceLeak {
  /** Requests that went to the API. */
  readonly requests: number
  readonly refused: number
  readonly lastAcceptedAt?: string
  readonly knownThrough?: string
  /** Sources that had not been seen with this key when it was reported. */
  readonly newSources: readonly UsedFrom[]
  readonly knownSources: readonly UsedFrom[]
  /** False when so many sources used the key that some were forgotten: then a new one may be an old one. */
  readonly sourcesComplete: boolean
}

/** Undefined for a token that is none of ours. */
export async function usageSinceLeak(db: Database, leakId: LeakId): Promise<UsageSinceLeak | undefined> {
  const leak = await getLeak(db, leakId)
  if (leak?.keyId === undefined || leak.usageBefore === undefined) return undefined
  const after = leak.usageAfter ?? (await usageNow(db, leak.keyId))
  return difference(leak.usageBefore, after)
}

async function usageNow(db: Database, keyId: string): Promise<KnownUsage> {
  const [row] = await db.query<{ usage: KnownUsage }>(`select ${USAGE_OF('$1')} as usage`, [keyId])
  if (row === undefined) throw new Error('a query without a table returned no row')
  return row.usage
}

function difference(before: KnownUsage, after: KnownUsage): UsageSinceLeak {
  const id = ({ address, userAgent }: { address: string; userAgent: string }): string => JSON.stringify([address, userAgent])
  const counted = new Map(before.sources.map((source) => [id(source), source.count]))
  const since = after.sources
    .map((source) => ({ ...source, lastAt: iso(source.lastAt), count: source.count - (counted.get(id(source)) ?? 0) }))
    .filter(({ count }) => count > 0)
  return {
    requests: Math.max(0, after.accepted - before.accepted),
    refused: Math.max(0, after.refused - before.refused),
    ...(after.lastAcceptedAt === null ? {} : { lastAcceptedAt: iso(after.lastAcceptedAt) }),
    ...(after.completeThrough === null ? {} : { knownThrough: iso(after.completeThrough) }),
    newSources: since.filter((source) => !counted.has(id(source))),
    knownSources: since.filter((source) => counted.has(id(source))),
    sourcesComplete: before.sources.length < SOURCES_KEPT,
  }
}

/** PostgreSQL writes times in JSON in its own way. */
const iso = (time: string): string => new Date(time).toISOString()
