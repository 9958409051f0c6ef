/** Signed requests that came again, too late or out of order: counted per key, and told to people. */
import {
  type CredentialId,
  isReplayOutcome,
  type KeyId,
  REPLAY_OUTCOMES,
  type ReplayOutcome,
  type UsageReport,
} from '@keyturn/contract'
import { type Database, first, type Tx } from './database.ts'
import { storable } from './storable.ts'
import { MOST, REPLAY_SOURCES_KEPT } from './usage-limits.ts'

export const NO_REPLAYS: Readonly<Record<ReplayOutcome, number>> = { replayed: 0, stale: 0, 'out-of-order': 0 }

/** A key's people are told at once, and then at most so often. */
const TOLD_EVERY_MS = 15 * 60_000

/** Adds up what reports say of replays. Primary keys of replays and replay_sources. */
export async function countReplays(tx: Tx, reports: readonly UsageReport[]): Promise<void> {
  const suspicious = reports.flatMap(({ keyId, outcomes }) =>
    outcomes.flatMap(({ outcome, ...rest }) => (isReplayOutcome(outcome) ? [{ keyId, outcome, ...rest }] : [])),
  )
  if (suspicious.length === 0) return
  await tx.query(
    `insert into replays as r (key_id, replayed, stale, out_of_order, first_at, last_at)
     select n.key_id, ${REPLAY_OUTCOMES.map((outcome) => `coalesce(sum(n.count) filter (where n.outcome = '${outcome}'), 0)`).join(', ')},
       min(n.first_at), max(n.last_at)
     from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[]) as n (key_id, outcome, count, first_at, last_at)
     join keys using (key_id) group by n.key_id order by n.key_id
     on conflict (key_id) do update set
       replayed = r.replayed + excluded.replayed,
       stale = r.stale + excluded.stale,
       out_of_order = r.out_of_order + excluded.out_of_order,
       last_at = greatest(r.last_at, excluded.last_at)`,
    [
      suspicious.map(({ keyId }) => keyId),
      suspicious.map(({ outcome }) => outcome),
      suspicious.map(({ count }) => Math.min(count, MOST)),
      suspicious.map(({ firstAt }) => firstAt),
      suspicious.map(({ lastAt }) => lastAt),
    ],
  )
  const sources = suspicious.flatMap(({ keyId, sources: from = [] }) => from.map((source) => ({ keyId, ...source })))
  await tx.query(
    `insert into replay_sources as s (key_id, address, user_agent, count)
     select n.key_id, n.address, n.user_agent, sum(n.count) from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
       as n (key_id, address, user_agent, count) join keys using (key_id) group by 1, 2, 3 order by 1, 2, 3
     on conflict (key_id, address, user_agent) do update set count = s.count + excluded.count`,
    [
      sources.map(({ keyId }) => keyId),
      sources.map(({ address }) => storable(address)),
      sources.map(({ userAgent }) => storable(userAgent)),
      sources.map(({ count }) => Math.min(count, MOST)),
    ],
  )
  // As many as are kept of any key: the busiest.
  await tx.query(
    `delete from replay_sources s using (
       select key_id, address, user_agent, row_number() over (partition by key_id order by count desc) as place
       from replay_sources where key_id = any($1)
     ) p where p.place > $2 and (s.key_id, s.address, s.user_agent) = (p.key_id, p.address, p.user_agent)`,
    [[...new Set(suspicious.map(({ keyId }) => keyId))], REPLAY_SOURCES_KEPT],
  )
}

export interface UntoldReplays {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly replayed: number
  readonly stale: number
  readonly outOfOrder: number
  readonly since: Date
  readonly lastAt: Date
  readonly sources: readonly { readonly address: string; readonly userAgent: string; readonly count: number }[]
}

/** Keys of whose replays people have not been told, and may be by now. Index replays_untold. */
export const untoldReplays = async (db: Database, now: Date): Promise<KeyId[]> =>
  (
    await db.query<{ keyId: KeyId }>(
      `select key_id as "keyId" from replays
       where (replayed, stale, out_of_order) <> (told_replayed, told_stale, told_out_of_order)
         and (told_at is null or told_at <= $1) order by key_id`,
      [new Date(now.getTime() - TOLD_EVERY_MS)],
    )
  ).map(({ keyId }) => keyId)

/** Tells people of a key's replays and remembers that, with its row locked. Whoever finds it locked comes again later. Primary keys. */
export async function tellReplays(
  db: Database,
  { keyId, now }: { keyId: KeyId; now: Date },
  tell: (replays: UntoldReplays) => Promise<unknown>,
): Promise<void> {
  await db.tx(async (tx) => {
    const untold = await first<Omit<UntoldReplays, 'sources'>>(
      tx,
      `select r.key_id as "keyId", k.credential_id as "credentialId", r.replayed - r.told_replayed as replayed,
         r.stale - r.told_stale as stale, r.out_of_order - r.told_out_of_order as "outOfOrder",
         coalesce(r.told_at, r.first_at) as since, r.last_at as "lastAt"
       from replays r join keys k using (key_id)
       where r.key_id = $1 and (r.told_at is null or r.told_at <= $2) for no key update of r skip locked`,
      [keyId, new Date(now.getTime() - TOLD_EVERY_MS)],
    )
    if (untold === undefined) return
    const { rows: sources } = await tx.query<UntoldReplays['sources'][number]>(
      'select address, user_agent as "userAgent", count from replay_sources where key_id = $1 order by count desc, address',
      [keyId],
    )
    await tell({ ...untold, sources })
    await tx.query(
      `update replays set told_replayed = replayed, told_stale = stale, told_out_of_order = out_of_order, told_at = $2 where key_id = $1`,
      [keyId, now],
    )
    await tx.query('delete from replay_sources where key_id = $1', [keyId])
  })
}
