/** What gateways are told that do not hear from Kafka, and what they have said to have applied of it. */
import type { GatewayReceipt, KeyEventType, KeyId, RolloverId } from '@keyturn/contract'
import { type Database, first, type Tx } from './database.ts'
import { type KeyRow, selectKeysIn } from './key-rows.ts'
import { tell } from './rotations.ts'

/** The contract's ENDED_STATES, as text that the planner can hold against the condition of index keys_ended. */
const ENDED = `k.state in ('suspended', 'deactivated', 'compromised', 'destroyed')`
const HASH_LENGTH = 16
/** A gateway's clock may be ahead of ours. */
const CLOCK_SKEW_MS = 5 * 60_000

interface Place {
  readonly seq: number
  readonly hash: string
}

export interface FallbackPage {
  readonly keys: KeyRow[]
  readonly next: string
  readonly more: boolean
}

/** A place in the audit log, with what is written there: in another history of the registry it means nothing. */
const cursorOf = ({ seq, hash }: Place): string => `${seq}.${hash.slice(0, HASH_LENGTH)}`

/**
 * Answers a gateway's question: keys that have ended, in the order of the audit log, each in its present state.
 * @param input.after where the gateway has come to: what it says to have applied. One that is of another history counts as none
 * @param input.since the gateway knows all that Kafka had before this time
 */
export async function answerFallback(
  db: Database,
  input: { gatewayId: string; after?: string; since: Date; at: Date; limit: number },
): Promise<FallbackPage> {
  return db.tx(async (tx) => {
    // The head first: whatever the log holds up to there can be read by now.
    const head = await first<Place>(tx, 'select seq, hash from audit_head')
    if (head === undefined) throw new Error('the audit log has no head')
    const applied = await placeOf(tx, input.after)
    if (applied !== undefined) await confirm(tx, { ...input, applied })
    const from = applied ?? (await startFor(tx, input.since))
    // Primary keys of audit and keys.
    const keys = await selectKeysIn(
      tx,
      `join audit a on a.subject = k.key_id and a.revision = k.revision where a.seq > $1 and a.seq <= $2 and ${ENDED} order by a.seq limit $3`,
      [from, head.seq, input.limit],
    )
    const last = keys.at(-1)
    if (keys.length < input.limit || last === undefined) return { keys, next: cursorOf(head), more: false }
    // Index audit_once.
    const place = await first<Place>(tx, 'select seq, hash from audit where subject = $1 and revision = $2', [
      last.keyId,
      last.revision,
    ])
    return { keys, next: cursorOf(place ?? head), more: true }
  })
}

/** Primary key. */
async function placeOf(tx: Tx, cursor: string | undefined): Promise<number | undefined> {
  const [, seq, hash] = /^(\d{1,15})\.([0-9a-f]{16})$/.exec(cursor ?? '') ?? []
  if (seq === undefined || hash === undefined) return undefined
  if (Number(seq) === 0) return hash === '0'.repeat(HASH_LENGTH) ? 0 : undefined
  const entry = await first<Place>(tx, 'select seq, hash from audit where seq = $1', [seq])
  return entry?.hash.startsWith(hash) === true ? entry.seq : undefined
}

/**
 * Before the first change that Kafka did not have at that time. Indexes keys_unpublished, keys_ended, audit_once: each by itself, since the
 * planner takes the unpublished keys for a third of all, and would read all of both tables.
 */
async function startFor(tx: Tx, since: Date): Promise<number> {
  const firstOf = (which: string): string =>
    `(select min((select a.seq from audit a where a.subject = k.key_id and a.revision = k.revision)) from keys k where ${ENDED} and ${which})`
  const start = await first<{ seq: number }>(
    tx,
    `select coalesce(least(${firstOf('k.published_revision < k.revision')}, ${firstOf('k.published_at >= $1')}) - 1,
       (select seq from audit_head)) as seq`,
    [new Date(since.getTime() - CLOCK_SKEW_MS)],
  )
  return start?.seq ?? 0
}

/** Notes how far a gateway has come, and enters it in the receipts that lack it. Index receipts_unconfirmed. */
async function confirm(tx: Tx, { gatewayId, applied, at }: { gatewayId: string; applied: number; at: Date }): Promise<void> {
  await tx.query(
    `insert into fallback_polls (gateway_id, applied_through, at) values ($1, $2, $3)
     on conflict (gateway_id) do update set applied_through = excluded.applied_through, at = excluded.at
       where fallback_polls.applied_through <> excluded.applied_through`,
    [gatewayId, applied, at],
  )
  const { rows } = await tx.query<{ rotation_id: Parameters<typeof tell>[1] }>(
    `update receipts r set unconfirmed = array_remove(r.unconfirmed, $1), gateways = r.gateways || jsonb_build_array(jsonb_build_object(
         'gatewayId', $1::text, 'appliedAt', $3::text,
         'ms', greatest(0, round(extract(epoch from $3::timestamptz - r.published_at) * 1000))))
     from keys k join audit a on a.subject = k.key_id and a.revision = k.revision
     where r.unconfirmed <> '{}' and $1 = any(r.unconfirmed) and k.key_id = r.key_id and r.revision <= k.revision and a.seq <= $2 and ${ENDED}
       and r.event in ('keyturn.key.suspended', 'keyturn.key.deactivated', 'keyturn.key.compromised')
     returning r.rotation_id`,
    [gatewayId, applied, at.toISOString()],
  )
  for (const { rotation_id } of rows) await tell(tx, rotation_id)
}

/** Which gateways have said over the fallback that they have applied the end of a key; none when it has not ended. */
export async function confirmedOverFallback(
  db: Database,
  { keyId, revision, since }: { keyId: KeyId; revision: number; since: Date },
): Promise<GatewayReceipt[]> {
  const rows = await db.query<{ gateway_id: string; at: Date }>(
    `select p.gateway_id, p.at from keys k join audit a on a.subject = k.key_id and a.revision = k.revision
       join fallback_polls p on p.applied_through >= a.seq
     where k.key_id = $1 and k.revision >= $2 and ${ENDED} order by p.gateway_id`,
    [keyId, revision],
  )
  return rows.map((row) => toReceipt(row, since))
}

/** The same for all keys that a rollover has killed. Primary keys, and index audit_once. */
export async function rolloverOverFallback(
  db: Database,
  { rolloverId, since }: { rolloverId: RolloverId; since: Date },
): Promise<GatewayReceipt[]> {
  const rows = await db.query<{ gateway_id: string; at: Date }>(
    `select p.gateway_id, p.at from fallback_polls p where p.applied_through >= (
       select max(a.seq) from rollover_members m cross join unnest(m.key_ids) killed (key_id) join keys k using (key_id)
         join audit a on a.subject = k.key_id and a.revision = k.revision
       where m.rollover_id = $1) order by p.gateway_id`,
    [rolloverId],
  )
  return rows.map((row) => toReceipt(row, since))
}

const toReceipt = ({ gateway_id, at }: { gateway_id: string; at: Date }, since: Date): GatewayReceipt => ({
  gatewayId: gateway_id,
  appliedAt: at.toISOString(),
  ms: Math.max(0, at.getTime() - since.getTime()),
})

/** The end of a key. What it may do can be changed after that, and its verifier be sealed anew: neither is its end. */
export interface KeyEnd {
  readonly event: KeyEventType
  readonly revision: number
  readonly at: Date
}

/** Events and entries of the audit log are named for the states. Primary key, and indexes audit_by_subject, audit_once. */
const END_OF_KEY = `
select 'keyturn.key.' || k.state as event, e.revision, a.at from keys k
cross join lateral (select coalesce(max(x.revision), k.revision) as revision from audit x
  where x.subject = k.key_id and x.action = 'key.' || k.state) e
join audit a on a.subject = k.key_id and a.revision = e.revision
where k.key_id = $1 and ${ENDED}`

/** What became of a key that has ended, and when. */
export const endOfKey = async (db: Database, keyId: KeyId): Promise<KeyEnd | undefined> =>
  (await db.query<KeyEnd>(END_OF_KEY, [keyId]))[0]

/** What a receipt of the key is a receipt of: its last change; but its end, when it has ended. */
export async function confirmable(tx: Tx, row: KeyRow): Promise<Omit<KeyEnd, 'at'>> {
  const end = row.event === 'keyturn.key.updated' ? await first<KeyEnd>(tx, END_OF_KEY, [row.keyId]) : undefined
  return end ?? row
}
