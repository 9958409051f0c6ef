/** Contacts that messages did not reach: after too many nothing is sent there, until somebody gives the client's contacts anew. */
import { cut } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import type { Database, Tx } from './database.ts'
import { storable } from './storable.ts'

/** So many messages in a row that were given up, or none that came through for so long, and a contact is no longer used. */
const MOST_FAILURES = 3
const LONGEST_MS = 86_400_000
const LONGEST_WHY = 500

export interface Trouble {
  readonly contactId: string
  readonly failures: number
  readonly since: Date
  readonly why: string
  readonly disabledAt?: Date
}

interface SqlTrouble {
  contact_id: string
  failures: number
  since: Date
  why: string
  disabled_at: Date | null
}

/** By contact id. Primary key. */
export async function troublesOf(db: Database, clientId: string): Promise<ReadonlyMap<string, Trouble>> {
  const rows = await db.query<SqlTrouble>(
    'select contact_id, failures, since, why, disabled_at from contact_troubles where client_id = $1',
    [clientId],
  )
  return new Map(
    rows.map(({ contact_id: contactId, failures, since, why, disabled_at }) => [
      contactId,
      { contactId, failures, since, why, ...(disabled_at === null ? {} : { disabledAt: disabled_at }) },
    ]),
  )
}

/**
 * Notes that a message was given up for a contact. Primary key.
 * @param input.since when that message was first tried
 * @returns whether the contact is no longer used from now on: of all who note it, one hears that
 */
export async function noteTrouble(
  db: Database,
  input: { clientId: string; contactId: string; contact: string; since: Date; at: Date; why: string },
): Promise<boolean> {
  const { clientId, contactId, contact, since, at, why } = input
  return db.tx(async (tx) => {
    const { rows } = await tx.query<{ failures: number; since: Date; disabled_at: Date | null }>(
      `insert into contact_troubles as t (client_id, contact_id, failures, since, why) values ($1, $2, 1, $3, $4)
       on conflict (client_id, contact_id) do update set failures = t.failures + 1, why = excluded.why
       returning failures, since, disabled_at`,
      [clientId, contactId, since, storable(cut(why, LONGEST_WHY))],
    )
    const [trouble] = rows
    if (trouble === undefined || trouble.disabled_at !== null) return false
    if (trouble.failures < MOST_FAILURES && at.getTime() - trouble.since.getTime() < LONGEST_MS) return false
    await tx.query('update contact_troubles set disabled_at = $3 where client_id = $1 and contact_id = $2', [
      clientId,
      contactId,
      at,
    ])
    const detail = { contact, failures: trouble.failures, why: cut(why, LONGEST_WHY) }
    await appendAudit(tx, { at, actor: 'keyturn', action: 'client.contact-disabled', subject: clientId, detail })
    return true
  })
}

/** A message has come through: what went wrong before counts no more, unless the contact is no longer used. Primary key. */
export async function endTrouble(tx: Tx, clientId: string, contactId: string): Promise<void> {
  await tx.query('delete from contact_troubles where client_id = $1 and contact_id = $2 and disabled_at is null', [
    clientId,
    contactId,
  ])
}

/** Primary key. */
export async function forgetTroubles(tx: Tx, clientId: string): Promise<void> {
  await tx.query('delete from contact_troubles where client_id = $1', [clientId])
}
