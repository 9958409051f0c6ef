/** What a client can read of itself: what it was told, or would have been told had it a contact. Kept for some weeks. */
import type { ClientId } from '@keyturn/contract'
import { type Database, first } from './database.ts'
import { type Shown, shownIs } from './shown-keys.ts'

/** The channel on which the database says that there is news of a client; the payload is its id. */
export const CLIENT_CHANNEL = 'keyturn_client'
const KEPT_MS = 90 * 86_400_000

export interface ClientEvent {
  readonly id: string
  readonly at: Date
  readonly type: string
  readonly data: object
}

export interface NewClientEvent {
  readonly clientId: ClientId
  /** The same message again is no other event. */
  readonly messageId: string
  readonly at: Date
  readonly type: string
  readonly data: object
}

/** Events of one client are written one after the other, so that whoever has read one has missed none before it. Primary keys. */
export async function addClientEvent(db: Database, { clientId, messageId, at, type, data }: NewClientEvent): Promise<void> {
  await db.tx(async (tx) => {
    await first(tx, 'select 1 from clients where client_id = $1 for no key update', [clientId])
    const { rowCount } = await tx.query(
      'insert into client_events (client_id, message_id, at, type, data) values ($1, $2, $3, $4, $5) on conflict do nothing',
      [clientId, messageId, at, type, JSON.stringify(data)],
    )
    if (rowCount === 1) await tx.query('select pg_notify($1, $2)', [CLIENT_CHANNEL, clientId])
  })
}

/** The oldest that come after one. Index client_events_by_client. */
export const clientEventsAfter = (db: Database, clientId: string, after: string, limit: number): Promise<ClientEvent[]> =>
  db.query<ClientEvent>(
    'select event_id::text as id, at, type, data from client_events where client_id = $1 and event_id > $2 order by event_id limit $3',
    [clientId, after, limit],
  )

/** Whose key it is that is shown, when it is accepted now. Index keys_by_verifier, or primary key. */
export async function clientOfKey(db: Database, shown: Shown, at: Date): Promise<ClientId | undefined> {
  const { condition, value } = shownIs(shown, 'k')
  const [row] = await db.query<{ client_id: ClientId }>(
    `select c.client_id from keys k join credentials c using (credential_id)
     where ${condition} and k.state = 'active' and k.not_before <= $2 and (k.expires_at is null or k.expires_at > $2)`,
    [value, at],
  )
  return row?.client_id
}

/** Index client_events_by_time. @returns how many */
export async function forgetClientEvents(db: Database, now: Date): Promise<number> {
  const rows = await db.query('delete from client_events where at < $1 returning 1', [new Date(now.getTime() - KEPT_MS)])
  return rows.length
}
