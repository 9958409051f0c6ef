import { createHash } from 'node:crypto'
import type { RotationId } from '@keyturn/contract'
import type { Database, Tx } from './database.ts'
import { storable, storableJson } from './storable.ts'

export interface NewAuditEntry {
  readonly at: Date
  readonly actor: string
  readonly action: string
  /** What was changed: the id of a key, a rotation, a credential, a client, a gateway. */
  readonly subject: string
  readonly revision?: number
  readonly rotationId?: RotationId
  readonly detail?: Readonly<Record<string, unknown>>
}

export interface AuditEntry extends NewAuditEntry {
  readonly seq: number
  readonly detail: Readonly<Record<string, unknown>>
  /** Of the entry before it. */
  readonly prevHash: string
  readonly hash: string
}

/** Writes down a change, in the transaction that makes it, whatever was said of it outside. The database chains the entries (G7). */
export async function appendAudit(tx: Tx, entry: NewAuditEntry): Promise<void> {
  await tx.query(
    'insert into audit (seq, at, actor, action, subject, revision, rotation_id, detail, prev_hash, hash) values (0, $1, $2, $3, $4, $5, $6, $7, $8, $8)',
    [
      entry.at,
      storable(entry.actor),
      entry.action,
      storable(entry.subject),
      entry.revision,
      entry.rotationId,
      storableJson(entry.detail ?? {}),
      '',
    ],
  )
}

interface AuditRow {
  seq: number
  at: Date
  actor: string
  action: string
  subject: string
  revision: number | null
  rotation_id: RotationId | null
  detail: Record<string, unknown>
  prev_hash: string
  hash: string
}

const toEntry = (row: AuditRow): AuditEntry => ({
  seq: row.seq,
  at: row.at,
  actor: row.actor,
  action: row.action,
  subject: row.subject,
  detail: row.detail,
  prevHash: row.prev_hash,
  hash: row.hash,
  ...(row.revision === null ? {} : { revision: row.revision }),
  ...(row.rotation_id === null ? {} : { rotationId: row.rotation_id }),
})

/** Entries in their order, after a given one. By subject: index audit_by_subject; by rotation: audit_by_rotation; all: the primary key. */
export async function listAudit(
  db: Database,
  { subject, rotationId, after = 0, limit }: { subject?: string; rotationId?: string; after?: number; limit: number },
): Promise<AuditEntry[]> {
  const filters = ['seq > $1']
  const values: unknown[] = [after, limit]
  if (subject !== undefined) filters.push(`subject = $${values.push(subject)}`)
  if (rotationId !== undefined) filters.push(`rotation_id = $${values.push(rotationId)}`)
  const rows = await db.query<AuditRow>(`select * from audit where ${filters.join(' and ')} order by seq limit $2`, values)
  return rows.map(toEntry)
}

const PAGE = 1_000

interface ChainedRow {
  readonly seq: number
  /** The hashed fields in their order, as text. */
  readonly fields: readonly (string | null)[]
  readonly prev_hash: string
  readonly hash: string
}

const MICROSECONDS = `'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'`
/** Primary key. */
const SELECT_CHAIN = `
select seq, prev_hash, hash, array[seq::text, to_char(at at time zone 'UTC', ${MICROSECONDS}),
  to_char(recorded_at at time zone 'UTC', ${MICROSECONDS}), actor, action, subject, revision::text, rotation_id, detail::text,
  prev_hash] as fields
from audit where seq > $1 order by seq limit $2`

/** What an entry's hash is of: made here, so that the verification does not trust a function in the database that it verifies. */
const hashedText = ({ fields }: ChainedRow): string =>
  fields.map((field) => (field === null ? '-' : `${Buffer.byteLength(field)}:${field}`)).join(',')

/** Follows the chain from its first entry to the head, hashing anew. An edit, a removal (of the last one, too) or a reordering shows. */
export async function verifyAudit(
  db: Database,
): Promise<{ ok: true; entries: number } | { ok: false; seq: number; flaw: string }> {
  let seq = 0
  let hash = '0'.repeat(64)
  for (;;) {
    const rows = await db.query<ChainedRow>(SELECT_CHAIN, [seq, PAGE])
    for (const row of rows) {
      if (row.seq !== seq + 1) return { ok: false, seq: seq + 1, flaw: 'missing' }
      if (row.prev_hash !== hash) return { ok: false, seq: row.seq, flaw: 'does not follow the entry before it' }
      if (createHash('sha256').update(hashedText(row)).digest('hex') !== row.hash)
        return { ok: false, seq: row.seq, flaw: 'was edited' }
      seq = row.seq
      hash = row.hash
    }
    if (rows.length < PAGE) break
  }
  const [head] = await db.query<{ seq: number; hash: string }>('select seq, hash from audit_head')
  // Entries may have come in since; the head is never behind what was read.
  if (head === undefined || head.seq < seq || (head.seq === seq && head.hash !== hash))
    return { ok: false, seq, flaw: 'is not where the head says' }
  if (head.seq > seq) {
    const [next] = await db.query<{ seq: number }>('select seq from audit where seq = $1', [seq + 1])
    if (next === undefined) return { ok: false, seq: seq + 1, flaw: 'missing' }
  }
  return { ok: true, entries: seq }
}
