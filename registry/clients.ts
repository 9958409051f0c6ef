import { type ClientId, type Language, type QuietHours, randomBase62, type Tell } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { forgetTroubles } from './contact-troubles.ts'
import { type Contact, contactText } from './contacts.ts'
import { type Database, first } from './database.ts'
import { RegistryError } from './errors.ts'

export type { Contact }

/** How a client is told. */
export interface Reachability {
  /** In the order in which they are tried. */
  readonly contacts: readonly Contact[]
  readonly language: Language
  /** As the IANA names it. */
  readonly timeZone: string
  /** When reminders wait; in the client's time zone. */
  readonly quietHours?: QuietHours
  readonly tell: Tell
}

export interface Client extends Reachability {
  readonly clientId: ClientId
  readonly name: string
  readonly createdAt: Date
}

/** What is not given stays as it is, or is as it is by default. */
export interface ClientChange extends Partial<Omit<Reachability, 'quietHours'>> {
  readonly name?: string
  /** null: none any more. */
  readonly quietHours?: QuietHours | null
}

interface SqlClient {
  client_id: ClientId
  name: string
  contacts: Contact[]
  language: Language
  time_zone: string
  quiet_hours: QuietHours | null
  tell: Tell
  created_at: Date
}

const COLUMNS = 'client_id, name, contacts, language, time_zone, quiet_hours, tell, created_at'

const toClient = (row: SqlClient): Client => ({
  clientId: row.client_id,
  name: row.name,
  contacts: row.contacts,
  language: row.language,
  timeZone: row.time_zone,
  ...(row.quiet_hours === null ? {} : { quietHours: row.quiet_hours }),
  tell: row.tell,
  createdAt: row.created_at,
})

export async function createClient(
  db: Database,
  input: ClientChange & { name: string; contacts: readonly Contact[]; at: Date; actor: string },
): Promise<Client> {
  const clientId = `cli_${randomBase62(16)}` as ClientId
  const { name, contacts, language = 'en', timeZone = 'UTC', quietHours, tell = 'first', at, actor } = input
  return db.tx(async (tx) => {
    const row = await first<SqlClient>(
      tx,
      `insert into clients (${COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8) returning ${COLUMNS}`,
      [clientId, name, JSON.stringify(contacts), language, timeZone, quietHours ?? null, tell, at],
    )
    await appendAudit(tx, { at, actor, action: 'client.created', subject: clientId, detail: { name } })
    return toClient(row as SqlClient)
  })
}

/**
 * Changes how a client is told, or its name. Contacts that are given anew are all tried again, those that were given up too. Primary key.
 * @throws RegistryError unknown-client
 */
export async function changeClient(
  db: Database,
  clientId: string,
  change: ClientChange & { at: Date; actor: string },
): Promise<Client> {
  return db.tx(async (tx) => {
    const row = await first<SqlClient>(tx, `select ${COLUMNS} from clients where client_id = $1 for no key update`, [clientId])
    if (row === undefined) throw new RegistryError('unknown-client', `there is no client ${clientId}`)
    const before = toClient(row)
    const { at, actor, quietHours = before.quietHours ?? null, ...given } = change
    const { name, contacts, language, timeZone, tell } = { ...before, ...given }
    await tx.query(
      'update clients set name = $2, contacts = $3, language = $4, time_zone = $5, quiet_hours = $6, tell = $7 where client_id = $1',
      [clientId, name, JSON.stringify(contacts), language, timeZone, quietHours, tell],
    )
    if (given.contacts !== undefined) await forgetTroubles(tx, clientId)
    // The audit log goes far: it names hosts alone.
    const detail = { name, contacts: contacts.map(contactText), language, timeZone, quietHours, tell }
    await appendAudit(tx, { at, actor, action: 'client.changed', subject: clientId, detail })
    const { quietHours: _, ...kept } = before
    return { ...kept, name, contacts, language, timeZone, tell, ...(quietHours === null ? {} : { quietHours }) }
  })
}

/** Primary key. */
export async function getClient(db: Database, clientId: string): Promise<Client | undefined> {
  const [row] = await db.query<SqlClient>(`select ${COLUMNS} from clients where client_id = $1`, [clientId])
  return row === undefined ? undefined : toClient(row)
}
