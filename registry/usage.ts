/** Who uses which key: what gateways have reported, counted exactly once, and the evidence that follows from it. */
import type {
  CredentialId,
  Evidence,
  EvidenceFact,
  KeyId,
  KeyState,
  RotationId,
  RotationStage,
  UsageOutcome,
  UsageReport,
} from '@keyturn/contract'
import type { Database, Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { countReplays, NO_REPLAYS } from './replays.ts'
import { storable } from './storable.ts'
import { MOST, SOURCES_KEPT } from './usage-limits.ts'

const STRAGGLERS_SHOWN = 20

/** Up to where each partition of the usage topic has been counted: the offset that comes next. */
export async function usageOffsets(db: Database): Promise<Map<number, string>> {
  const rows = await db.query<{ partition: number; next_offset: string }>(
    'select partition, next_offset::text from usage_offsets',
  )
  return new Map(rows.map(({ partition, next_offset }) => [partition, next_offset]))
}

export interface CollectedReport {
  readonly offset: string
  readonly report: UsageReport
}

export interface UsageBatch {
  readonly partition: number
  /** What comes after the batch. */
  readonly nextOffset: string
  /** A count that belongs to a topic that was lost: while it is what the registry knows, the partition is counted from its start. */
  readonly notSince?: string
  readonly reports: readonly CollectedReport[]
}

/**
 * Counts reports of one partition, together with how far it has been read: a report that comes again is passed over.
 * @returns up to where the partition has been counted
 */
export async function applyUsage(db: Database, batch: UsageBatch): Promise<string> {
  const { partition, nextOffset } = batch
  return db.tx(async (tx) => {
    await tx.query('insert into usage_offsets values ($1, 0) on conflict do nothing', [partition])
    const { rows } = await tx.query<{ next_offset: string }>(
      'select next_offset::text from usage_offsets where partition = $1 for update',
      [partition],
    )
    const known = rows[0]?.next_offset ?? '0'
    const counted = known === batch.notSince ? 0n : BigInt(known)
    if (BigInt(nextOffset) <= counted) return known
    const fresh = batch.reports.filter(({ offset }) => BigInt(offset) >= counted).map(({ report }) => report)
    if (fresh.length > 0) {
      const repeated = await repetitions(tx, partition, fresh)
      await count(tx, fresh, repeated)
      await countReplays(
        tx,
        fresh.filter((report) => !repeated.has(report)),
      )
    }
    await tx.query('update usage_offsets set next_offset = $2 where partition = $1', [partition, nextOffset])
    return nextOffset
  })
}

/** How long a repetition is known for one: longer than the topic keeps the report that it repeats. */
const SERIALS_KEPT = '8 days'

/** Which of the reports have been counted before: sent again by a gateway that had not heard of their arrival. */
async function repetitions(tx: Tx, partition: number, reports: readonly UsageReport[]): Promise<Set<UsageReport>> {
  const numbered = reports.flatMap((report) => {
    const { gatewayId, incarnation, serial } = report
    return incarnation === undefined || serial === undefined ? [] : [{ report, gatewayId, incarnation, serial }]
  })
  const gatewayIds = numbered.map(({ gatewayId }) => gatewayId)
  // Primary key.
  const { rows } = await tx.query<{ gateway_id: string; incarnation: string; serial: number }>(
    `select gateway_id, incarnation, serial from usage_serials
     where (gateway_id, incarnation) in (select * from unnest($2::text[], $3::text[])) and partition = $1`,
    [partition, gatewayIds, numbered.map(({ incarnation }) => incarnation)],
  )
  const latest = new Map(rows.map(({ gateway_id, incarnation, serial }) => [`${gateway_id}/${incarnation}`, serial]))
  const repeated = new Set<UsageReport>()
  for (const { report, gatewayId, incarnation, serial } of numbered) {
    const sender = `${gatewayId}/${incarnation}`
    if (serial <= (latest.get(sender) ?? 0)) repeated.add(report)
    else latest.set(sender, serial)
  }
  const senders = new Map(
    numbered.map(({ gatewayId, incarnation }) => [`${gatewayId}/${incarnation}`, { gatewayId, incarnation }]),
  )
  const all = [...senders].map(([sender, { gatewayId, incarnation }]) => ({ gatewayId, incarnation, serial: latest.get(sender) }))
  const { rowCount } = await tx.query(
    `insert into usage_serials as s (gateway_id, incarnation, partition, serial)
     select n.gateway_id, n.incarnation, $1, n.serial from unnest($2::text[], $3::text[], $4::bigint[]) as n (gateway_id, incarnation, serial)
     on conflict (gateway_id, incarnation, partition) do update set serial = excluded.serial, counted_at = now()`,
    [partition, all.map((s) => s.gatewayId), all.map((s) => s.incarnation), all.map((s) => s.serial)],
  )
  // A new incarnation is the moment to forget those that have long gone. The table is as small as the fleet.
  if ((rowCount ?? 0) > rows.length)
    await tx.query(`delete from usage_serials where counted_at < now() - interval '${SERIALS_KEPT}'`)
  return repeated
}

interface Counted {
  first?: string
  last?: string
  readonly counts: Record<UsageOutcome, number>
  readonly sources: Map<string, { address: string; userAgent: string; count: number; lastAt: string }>
}

/** Adds reports up. Of a repetition only the times are taken: they can not be counted twice, and evidence must miss none. */
async function count(tx: Tx, reports: readonly UsageReport[], repeated: ReadonlySet<UsageReport>): Promise<void> {
  const byKey = new Map<KeyId, Counted>()
  for (const report of reports) {
    const times = repeated.has(report) ? 0 : 1
    const counted: Counted = byKey.get(report.keyId) ?? {
      counts: { accepted: 0, refused: 0, 'refused-upstream': 0, 'wrong-environment': 0, undecided: 0, ...NO_REPLAYS },
      sources: new Map(),
    }
    byKey.set(report.keyId, counted)
    for (const { outcome, count: n, firstAt, lastAt } of report.outcomes) {
      counted.counts[outcome] += times * Math.min(n, MOST)
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
        count: times * Math.min(source.count, MOST) + (known?.count ?? 0),
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
    `insert into key_sources as s (key_id, address, user_agent, count, first_at, last_at)
     select n.key_id, n.address, n.user_agent, n.count, n.last_at, n.last_at from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[]) as n (key_id, address, user_agent, count, last_at)
     join keys using (key_id)
     on conflict (key_id, address, user_agent) do update set count = s.count + excluded.count,
       first_at = least(s.first_at, excluded.first_at), last_at = greatest(s.last_at, excluded.last_at)`,
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

/** Nor the year 0. */
const time = (text: string): string => new Date(Math.max(0, Date.parse(text))).toISOString()

const earlier = (a: string | undefined, b: string): string => (a === undefined || Date.parse(b) < Date.parse(a) ? time(b) : a)
const later = (a: string | undefined, b: string): string => (a === undefined || Date.parse(b) > Date.parse(a) ? time(b) : a)

/**
 * @param at up to when the use of every key is known; undefined while a live gateway has said nothing
 * @param lostAt up to when use may be unknown for good: a gateway ended then with counts that it had reported to nobody. The latest stays
 */
export async function setCompleteThrough(
  db: Database,
  at: Date | undefined,
  silentGateways: readonly string[],
  lostAt?: Date,
): Promise<void> {
  await db.query('update usage_state set complete_through = $1, silent_gateways = $2, lost_at = greatest(lost_at, $3)', [
    at,
    silentGateways,
    lostAt,
  ])
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
  lost_at: Date | null
  new_state: KeyState | null
  done_at: Date | null
}

/** What is known of the use of a rotation's keys. View rotation_evidence, by primary keys; index key_sources_latest. */
export async function readEvidence(sql: Database | Tx, rotationId: RotationId): Promise<Evidence> {
  const query = async <R>(text: string, values: unknown[]): Promise<R[]> =>
    'pool' in sql ? sql.query<R>(text, values) : ((await sql.query(text, values)).rows as R[])
  const [row] = await query<SqlEvidence>(
    'select e.*, n.state as new_state from rotation_evidence e left join keys n on n.key_id = e.new_key_id where e.rotation_id = $1',
    [rotationId],
  )
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
    ...(row.lost_at === null ? {} : { usageLostAt: row.lost_at.toISOString() }),
    stragglers: stragglers.map((s) => ({
      address: s.address,
      userAgent: s.user_agent,
      count: s.count,
      lastAt: s.last_at.toISOString(),
    })),
    ...(row.new_state === 'pre-activation' ? { awaitsEnrolment: true } : {}),
    ...(row.done_at === null ? {} : { doneAt: row.done_at.toISOString() }),
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

interface ToTell {
  readonly rotationId: RotationId
  readonly credentialId: CredentialId
  readonly stage: RotationStage
  readonly fact: EvidenceFact
}

/** The facts that have come true for open rotations and that they have not been told in this stage. Indexes rotations_open, rotations_pkey, keys_pkey. */
export const rotationsToTell = (db: Database): Promise<ToTell[]> =>
  db.query(
    `select e.rotation_id as "rotationId", e.credential_id as "credentialId", e.stage, f.fact
     from rotation_evidence e
     join rotations r on r.rotation_id = e.rotation_id
     left join keys o on o.key_id = e.old_key_id
     cross join lateral (values
       ('new-key-used', (e.stage in ('notifying', 'monitoring') or r.held_for = 'untold') and e.new_first_used_at is not null),
       ('old-key-quiet', e.stage = 'monitoring' and e.sufficient),
       ('new-key-refused', e.stage in ('notifying', 'monitoring', 'held', 'deactivating') and e.new_refusals > (e.policy ->> 'newKeyRefusals')::bigint),
       ('old-key-refused', e.stage in ('deactivating', 'held') and o.state = 'deactivated' and e.old_refusals > (e.policy ->> 'oldKeyRefusals')::bigint)
     ) as f (fact, holds)
     where e.ended_at is null and f.holds and f.fact <> all (e.told)`,
  )

/**
 * Tells a rotation a fact and remembers that, with its row locked: no other collector tells it too, and the rotation can not
 * forget it (a new stage does, and monitoring begun again) before it has been noted. Whoever finds the row locked comes again later.
 * @returns whether it was told
 */
export async function tellOnce(
  db: Database,
  { rotationId, stage, fact }: Pick<ToTell, 'rotationId' | 'stage' | 'fact'>,
  tell: () => Promise<unknown>,
): Promise<boolean> {
  return db.tx(async (tx) => {
    const { rowCount } = await tx.query(
      'select from rotations where rotation_id = $1 and stage = $2 and $3 <> all (told) for no key update skip locked',
      [rotationId, stage, fact],
    )
    if (rowCount === 0) return false
    await tell()
    await tx.query('update rotations set told = array_append(told, $2) where rotation_id = $1', [rotationId, fact])
    return true
  })
}

export async function forgetTold(db: Database, rotationId: RotationId): Promise<void> {
  await db.query(`update rotations set told = '{}' where rotation_id = $1`, [rotationId])
}
