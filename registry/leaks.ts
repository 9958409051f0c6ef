/** Leak incidents as they stand: one for each token, by its hash. */
import type { CredentialId, KeyId, LeakId, LeakMatch, LeakResponse, LeakStatus, Receipt, RotationId } from '@keyturn/contract'
import type { Database } from './database.ts'

/** Who brought a report to us, whoever found the token. */
export type Reporter = 'operator' | 'reporter' | 'github' | 'gitguardian' | 'kafka'

/** The hash of a token, in hex: SHA-256, or GitGuardian's own (registry/hmsl.ts). */
export interface TokenHash {
  readonly kind: 'sha256' | 'hmsl'
  readonly hex: string
}

/** A key's use as it is known now, as JSON. Primary keys; index key_sources_latest. */
export const USAGE_OF = (keyId: string): string => `(
  select jsonb_build_object('accepted', coalesce(u.accepted, 0), 'refused', coalesce(u.refused, 0) + coalesce(u.undecided, 0),
    'lastAcceptedAt', u.last_accepted_at, 'completeThrough', (select complete_through from usage_state),
    'sources', coalesce((select jsonb_agg(jsonb_build_object('address', s.address, 'userAgent', s.user_agent, 'count', s.count,
      'lastAt', s.last_at) order by s.last_at desc) from key_sources s where s.key_id = k.key_id), '[]'))
  from keys k left join key_usage u using (key_id) where k.key_id = ${keyId})`

export interface KnownUsage {
  readonly accepted: number
  readonly refused: number
  readonly lastAcceptedAt: string | null
  readonly completeThrough: string | null
  readonly sources: readonly {
    readonly address: string
    readonly userAgent: string
    readonly count: number
    readonly lastAt: string
  }[]
}

export interface Leak {
  readonly leakId: LeakId
  readonly hash: TokenHash
  readonly matched: LeakMatch
  readonly status: LeakStatus
  readonly keyId?: KeyId
  readonly credentialId?: CredentialId
  readonly response?: LeakResponse
  readonly overlapMs?: number
  readonly rotationId?: RotationId
  readonly reportedAt: Date
  readonly containedAt?: Date
  readonly receipt?: Receipt
  readonly usageBefore?: KnownUsage
  readonly usageAfter?: KnownUsage
  readonly closedAt?: Date
  readonly sightings: number
}

export interface SeenAt {
  readonly source: string
  readonly url: string
  readonly reporter: Reporter
  readonly foundAt?: Date
  readonly firstAt: Date
  readonly lastAt: Date
  readonly times: number
}

interface SqlLeak {
  readonly leak_id: LeakId
  readonly token_hash: string
  readonly matched: LeakMatch
  readonly key_id: KeyId | null
  readonly status: LeakStatus
  readonly credential_id: CredentialId | null
  readonly response: LeakResponse | null
  readonly overlap_ms: number | null
  readonly rotation_id: RotationId | null
  readonly reported_at: Date
  readonly contained_at: Date | null
  readonly receipt: Receipt | null
  readonly usage_before: KnownUsage | null
  readonly usage_after: KnownUsage | null
  readonly closed_at: Date | null
  readonly sightings: number
}

const SELECT_LEAKS = `
select l.*, k.credential_id, (select count(*) from leak_sightings s where s.leak_id = l.leak_id) as sightings
from leaks l left join keys k using (key_id)`

const toLeak = (row: SqlLeak): Leak => ({
  leakId: row.leak_id,
  hash: {
    kind: row.token_hash.startsWith('hmsl') ? 'hmsl' : 'sha256',
    hex: row.token_hash.slice(row.token_hash.indexOf(':') + 1),
  },
  matched: row.matched,
  status: row.status,
  reportedAt: row.reported_at,
  sightings: row.sightings,
  ...(row.key_id === null ? {} : { keyId: row.key_id }),
  ...(row.credential_id === null ? {} : { credentialId: row.credential_id }),
  ...(row.response === null ? {} : { response: row.response }),
  ...(row.overlap_ms === null ? {} : { overlapMs: row.overlap_ms }),
  ...(row.rotation_id === null ? {} : { rotationId: row.rotation_id }),
  ...(row.contained_at === null ? {} : { containedAt: row.contained_at }),
  ...(row.receipt === null ? {} : { receipt: row.receipt }),
  ...(row.usage_before === null ? {} : { usageBefore: row.usage_before }),
  ...(row.usage_after === null ? {} : { usageAfter: row.usage_after }),
  ...(row.closed_at === null ? {} : { closedAt: row.closed_at }),
})

/** Primary keys. */
export async function getLeak(db: Database, leakId: string): Promise<Leak | undefined> {
  const [row] = await db.query<SqlLeak>(`${SELECT_LEAKS} where l.leak_id = $1`, [leakId])
  return row === undefined ? undefined : toLeak(row)
}

/** Oldest first. Index leak_sightings_pkey. */
export async function sightingsOf(db: Database, leakId: string, limit: number): Promise<SeenAt[]> {
  const rows = await db.query<SeenAt & { foundAt: Date | null }>(
    `select source, url, reporter, found_at as "foundAt", first_at as "firstAt", last_at as "lastAt", times
     from leak_sightings where leak_id = $1 order by first_at, place limit $2`,
    [leakId, limit],
  )
  return rows.map(({ foundAt, ...row }) => (foundAt === null ? row : { ...row, foundAt }))
}

/** Latest first, after the leak `before`. Index leaks_by_time; by credential: leaks_by_key. */
export async function listLeaks(
  db: Database,
  filter: { status?: LeakStatus; matched?: LeakMatch; credentialId?: string; before?: string; limit: number },
): Promise<Leak[]> {
  const values: unknown[] = [filter.limit]
  const filters: string[] = []
  if (filter.status !== undefined) filters.push(`l.status = $${values.push(filter.status)}`)
  if (filter.matched !== undefined) filters.push(`l.matched = $${values.push(filter.matched)}`)
  if (filter.credentialId !== undefined) filters.push(`k.credential_id = $${values.push(filter.credentialId)}`)
  if (filter.before !== undefined) {
    const last = `(select reported_at, leak_id from leaks where leak_id = $${values.push(filter.before)})`
    filters.push(`(l.reported_at, l.leak_id) < ${last}`)
  }
  const where = filters.length === 0 ? '' : `where ${filters.join(' and ')}`
  const rows = await db.query<SqlLeak>(`${SELECT_LEAKS} ${where} order by l.reported_at desc, l.leak_id desc limit $1`, values)
  return rows.map(toLeak)
}

/** Incidents that nobody has begun to answer, oldest first. Index leaks_open. */
export async function unansweredLeaks(db: Database, before: Date, limit: number): Promise<LeakId[]> {
  const rows = await db.query<{ leak_id: LeakId }>(
    `select leak_id from leaks where status = 'open' and reported_at <= $1 order by reported_at limit $2`,
    [before, limit],
  )
  return rows.map(({ leak_id }) => leak_id)
}

/** What a client is told of a leak. */
export interface LeakFacts {
  readonly leakId: LeakId
  readonly keyId: KeyId
  readonly reportedAt: Date
  readonly response: LeakResponse | null
  readonly sources: readonly { readonly source: string; readonly url: string }[]
}

const SOURCES_TOLD = 10
const SELECT_FACTS = `
select l.leak_id as "leakId", l.key_id as "keyId", l.reported_at as "reportedAt", l.response,
  (select coalesce(jsonb_agg(jsonb_build_object('source', s.source, 'url', s.url) order by s.first_at), '[]')
   from (select * from leak_sightings where leak_id = l.leak_id order by first_at limit ${SOURCES_TOLD}) s) as sources
from leaks l`

/** The leaks that a rotation answers, oldest first. Index leaks_by_rotation. */
export const leaksOfRotation = (db: Database, rotationId: RotationId): Promise<LeakFacts[]> =>
  db.query<LeakFacts>(`${SELECT_FACTS} where l.rotation_id = $1 order by l.reported_at, l.leak_id`, [rotationId])

/** Primary key; undefined for a token that is none of ours. */
export async function factsOfLeak(db: Database, leakId: LeakId): Promise<LeakFacts | undefined> {
  const [facts] = await db.query<LeakFacts>(`${SELECT_FACTS} where l.leak_id = $1 and l.key_id is not null`, [leakId])
  return facts
}
