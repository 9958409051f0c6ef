/** Who uses which key: what gateways have reported, counted exactly once, and the evidence that follows from it. */
import type { CredentialId, Evidence, EvidenceFact, KeyId, RotationId, UsageOutcome, UsageReport } from '@keyturn/contract'
import type { Database, Tx } from './database.ts'
import { RegistryError } from './errors.ts'

const SOURCES_KEPT = 20
const STRAGGLERS_SHOWN = 20

/** Up to where each partition of the usage topic has been counted: the offset that comes next. */
export async function usageOffsets(db: Database): Promise<Map<number, string>> {
  const rows = await db.query<{ partition: number; next_offset: string }>(
    'select partition, next_offset::text from usage_offsets',
  )
  return new Map(rows.map(({ partition, next_offset }) => [partition, next_offset]))
}

export async function dropUsageOffset(db: Database, partition: number): Promise<void> {
  await db.query('delete from usage_offsets where partition = $1', [partition])
}

export interface CollectedReport {
  readonly offset: string
  readonly report: UsageReport
}

/** Counts reports of one partition, together with how far it has been read: a report that comes again is passed over. */
export async function applyUsage(
  db: Database,
  { partition, nextOffset, reports }: { partition: number; nextOffset: string; reports: readonly CollectedReport[] },
): Promise<void> {
  await db.tx(async (tx) => {
    await tx.query('insert into usage_offsets values ($1, 0) on conflict do nothing', [partition])
    const { rows } = await tx.query<{ next_offset: string }>(
      'select next_offset::text from usage_offsets where partition = $1 for update',
      [partition],
    )
    const counted = BigInt(rows[0]?.next_offset ?? 0)
    if (BigInt(nextOffset) <= counted) return
    const fresh = reports.filter(({ offset }) => BigInt(offset) >= counted).map(({ report }) => report)
    if (fresh.length > 0) await count(tx, fresh)
    await tx.query('update usage_offsets set next_offset = $2 where partition = $1', [partition, nextOffset])
  })
}

interface Counted {
  first?: string
  last?: string
  readonly counts: Record<UsageOutcome, number>
  readonly sources: Map<string, { address: string; userAgent: string; count: number; lastAt: string }>
}

async function count(tx: Tx, reports: readonly UsageReport[]): Promise<void> {
  const byKey = new Map<KeyId, Counted>()
  for (const report of reports) {
    const counted: Counted = byKey.get(report.keyId) ?? {
      counts: { accepted: 0, refused: 0, 'refused-upstream': 0, 'wrong-environment': 0, undecided: 0 },
      sources: new Map(),
    }
    byKey.set(report.keyId, counted)
    for (const { outcome, count: n, firstAt, lastAt } of report.outcomes) {
      counted.counts[outcome] += Math.min(n, MOST)
      if (outcome !== 'accepted') continue
      counted.first = earlier(counted.first, firstAt)
      counted.last = later(counted.last, lastAt)
    }
    for (const source of report.sources) {
      const address = storable(source.address)
      const userAgent = storable(source.userAgent)
      const id = JSON.stringify([address, userAgent])
      const known = counted.sources.get(id)
      counted.sources.set(id, {
        address,
        userAgent,
        count: Math.min(source.count, MOST) + (known?.count ?? 0),
        lastAt: later(known?.lastAt, source.lastAt),
      })
    }
  }
  // In the order of key ids, so that two collectors never wait for each other.
  const keyIds = [...byKey.keys()].sort()
  const all = keyIds.map((keyId) => byKey.get(keyId)).filter((counted) => counted !== undefined)
  const column = (outcome: UsageOutcome): number[] => all.map(({ counts }) => counts[outcome])
  await tx.query(
    `insert into key_usage as u (key_id, first_accepted_at, last_accepted_at, accepted, refused, refused_upstream, wrong_environment, undecided)
     select n.* from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
       as n (key_id, first_at, last_at, accepted, refused, refused_upstream, wrong_environment, undecided)
     join keys using (key_id) order by n.key_id
     on conflict (key_id) do update set
       first_accepted_at = least(u.first_accepted_at, excluded.first_accepted_at),
       last_accepted_at = greatest(u.last_accepted_at, excluded.last_accepted_at),
       accepted = u.accepted + excluded.accepted,
       refused = u.refused + excluded.refused,
       refused_upstream = u.refused_upstream + excluded.refused_upstream,
       wrong_environment = u.wrong_environment + excluded.wrong_environment,
       undecided = u.undecided + excluded.undecided`,
    [
      keyIds,
      all.map(({ first }) => first),
      all.map(({ last }) => last),
      column('accepted'),
      column('refused'),
      column('refused-upstream'),
      column('wrong-environment'),
      column('undecided'),
    ],
  )
  const sources = keyIds.flatMap((keyId) =>
    [...(byKey.get(keyId)?.sources.values() ?? [])].map((source) => ({ keyId, ...source })),
  )
  await tx.query(
    `insert into key_sources as s (key_id, address, user_agent, count, last_at)
     select n.* from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[]) as n (key_id, address, user_agent, count, last_at)
     join keys using (key_id)
     on conflict (key_id, address, user_agent) do update set count = s.count + excluded.count, last_at = greatest(s.last_at, excluded.last_at)`,
    [
      sources.map(({ keyId }) => keyId),
      sources.map(({ address }) => address),
      sources.map(({ userAgent }) => userAgent),
      sources.map((source) => source.count),
      sources.map(({ lastAt }) => lastAt),
    ],
  )
  // Index key_sources_latest.
  await tx.query(
    `delete from key_sources s using (
       select key_id, address, user_agent, row_number() over (partition by key_id order by last_at desc) as place from key_sources where key_id = any($1)
     ) p where p.place > $2 and (s.key_id, s.address, s.user_agent) = (p.key_id, p.address, p.user_agent)`,
    [keyIds, SOURCES_KEPT],
  )
}

/** What fits the schema and not PostgreSQL must not stop the counting: a count beyond 64 bits, a NUL, the year 0. */
const MOST = 1e12
const storable = (text: string): string => text.replaceAll('\0', '')
const time = (text: string): string => new Date(Math.max(0, Date.parse(text))).toISOString()

const earlier = (a: string | undefined, b: string): string => (a === undefined || Date.parse(b) < Date.parse(a) ? time(b) : a)
const later = (a: string | undefined, b: string): string => (a === undefined || Date.parse(b) > Date.parse(a) ? time(b) : a)

/** Up to when the use of every key is known; undefined while a live gateway has said nothing. */
export async function setCompleteThrough(db: Database, at: Date | undefined, silentGateways: readonly string[]): Promise<void> {
  await db.query('update usage_state set complete_through = $1, silent_gateways = $2', [at, silentGateways])
}

interface SqlEvidence {
  complete_through: Date | null
  silent_gateways: string[]
  old_key_id: KeyId | null
  old_last_used_at: Date | null
  new_first_used_at: Date | null
  new_last_used_at: Date | null
  new_refusals: number
  old_refusals: number
  sufficient: boolean
  opened_at: Date
}

/** What is known of the use of a rotation's keys. View rotation_evidence, by primary keys; index key_sources_latest. */
export async function readEvidence(sql: Database | Tx, rotationId: RotationId): Promise<Evidence> {
  const query = async <R>(text: string, values: unknown[]): Promise<R[]> =>
    'pool' in sql ? sql.query<R>(text, values) : ((await sql.query(text, values)).rows as R[])
  const [row] = await query<SqlEvidence>('select * from rotation_evidence where rotation_id = $1', [rotationId])
  if (row === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${rotationId}`)
  const stragglers = await query<{ address: string; user_agent: string; count: number; last_at: Date }>(
    'select address, user_agent, count, last_at from key_sources where key_id = $1 and last_at >= $2 order by last_at desc limit $3',
    [row.old_key_id, row.opened_at, STRAGGLERS_SHOWN],
  )
  return {
    ...(row.complete_through === null ? {} : { completeThrough: row.complete_through.toISOString() }),
    ...(row.old_last_used_at === null ? {} : { oldKeyLastUsedAt: row.old_last_used_at.toISOString() }),
    ...(row.new_first_used_at === null ? {} : { newKeyFirstUsedAt: row.new_first_used_at.toISOString() }),
    ...(row.new_last_used_at === null ? {} : { newKeyLastUsedAt: row.new_last_used_at.toISOString() }),
    newKeyRefusals: row.new_refusals,
    oldKeyRefusals: row.old_refusals,
    silentGateways: row.silent_gateways,
    stragglers: stragglers.map((s) => ({
      address: s.address,
      userAgent: s.user_agent,
      count: s.count,
      lastAt: s.last_at.toISOString(),
    })),
    sufficient: row.sufficient,
  }
}

/** When each key of a credential was last accepted. */
export async function lastUses(db: Database, credentialId: string): Promise<Map<KeyId, Date>> {
  const rows = await db.query<{ key_id: KeyId; last_accepted_at: Date }>(
    'select u.key_id, u.last_accepted_at from keys k join key_usage u using (key_id) where k.credential_id = $1 and u.last_accepted_at is not null',
    [credentialId],
  )
  return new Map(rows.map((row) => [row.key_id, row.last_accepted_at]))
}

/** The facts that have come true for open rotations and that they have not been told in this stage. Index rotations_open, keys_pkey. */
export async function rotationsToTell(
  db: Database,
): Promise<{ rotationId: RotationId; credentialId: CredentialId; fact: EvidenceFact }[]> {
  return db.query(
    `select e.rotation_id as "rotationId", e.credential_id as "credentialId", f.fact
     from rotation_evidence e
     left join keys o on o.key_id = e.old_key_id
     cross join lateral (values
       ('new-key-used', e.stage = 'monitoring' and e.new_first_used_at is not null),
       ('old-key-quiet', e.stage = 'monitoring' and e.sufficient),
       ('new-key-refused', e.stage in ('notifying', 'monitoring', 'held') and e.new_refusals > (e.policy ->> 'newKeyRefusals')::bigint),
       ('old-key-refused', e.stage in ('deactivating', 'held') and o.state = 'deactivated' and e.old_refusals > (e.policy ->> 'oldKeyRefusals')::bigint)
     ) as f (fact, holds)
     where e.ended_at is null and f.holds and f.fact <> all (e.told)`,
  )
}

/** Remembers that a rotation has been told. A new stage, or monitoring begun again, forgets it. */
export async function markTold(db: Database, rotationId: RotationId, fact: EvidenceFact): Promise<void> {
  await db.query('update rotations set told = array_append(told, $2) where rotation_id = $1 and $2 <> all (told)', [
    rotationId,
    fact,
  ])
}

export async function forgetTold(db: Database, rotationId: RotationId): Promise<void> {
  await db.query(`update rotations set told = '{}' where rotation_id = $1`, [rotationId])
}
