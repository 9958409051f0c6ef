import { type ClientId, randomBase62 } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import type { Database } from './database.ts'

export interface Contact {
  readonly channel: 'webhook'
  readonly url: string
}

export interface Client {
  readonly clientId: ClientId
  readonly name: string
  readonly contacts: readonly Contact[]
  readonly createdAt: Date
}

export async function createClient(
  db: Database,
  input: { name: string; contacts: readonly Contact[]; at: Date; actor: string },
): Promise<Client> {
  const clientId = `cli_${randomBase62(16)}` as ClientId
  return db.tx(async (tx) => {
    await tx.query('insert into clients (client_id, name, contacts, created_at) values ($1, $2, $3, $4)', [
      clientId,
      input.name,
      JSON.stringify(input.contacts),
      input.at,
    ])
    await appendAudit(tx, {
      at: input.at,
      actor: input.actor,
      action: 'client.created',
      subject: clientId,
      detail: { name: input.name },
    })
    return { clientId, name: input.name, contacts: input.contacts, createdAt: input.at }
  })
}

/** Primary key. */
export async function getClient(db: Database, clientId: string): Promise<Client | undefined> {
  const [row] = await db.query<{ client_id: ClientId; name: string; contacts: Contact[]; created_at: Date }>(
    'select client_id, name, contacts, created_at from clients where client_id = $1',
    [clientId],
  )
  return row === undefined
    ? undefined
    : { clientId: row.client_id, name: row.name, contacts: row.contacts, createdAt: row.created_at }
}
