/**
 * Keys that a provider issued before Keyturn: each becomes the first key of a new credential, found by the SHA-256 of its token. One
 * transaction for a batch: all of it, or nothing.
 */
import {
  CLIENT_ID_PATTERN,
  type ClientId,
  type CredentialId,
  type ImportedKey,
  type KeyId,
  newKeyId,
  randomBase62,
  weaknessOf,
} from '@keyturn/contract'
import type { Database, Tx } from './database.ts'
import { RegistryError, SQL_STATES, sqlState } from './errors.ts'
import { CLOCK_SKEW_MS } from './key-rows.ts'
import { policiesForNew } from './policies.ts'

export interface ImportBatch {
  readonly keys: readonly ImportedKey[]
  readonly acceptWeak: boolean
  /** Looks at everything, and writes nothing. */
  readonly dryRun: boolean
  readonly at: Date
  readonly actor: string
}

export interface ImportProblem {
  /** The place in the batch, from 0. */
  readonly index: number
  readonly message: string
}

export interface ImportOutcome {
  /** What was, or would be, imported. */
  readonly imported: number
  /** Keys that are there already, with the same digest, as the same credential. */
  readonly there: number
  /** The names of clients that were, or would be, made. */
  readonly newClients: readonly string[]
  /** Where there is one, nothing is imported. */
  readonly problems: readonly ImportProblem[]
  readonly keyIds: readonly KeyId[]
}

const CLIENT_ID = new RegExp(CLIENT_ID_PATTERN)

/** @throws RegistryError import-refused when a credential of one of the names is made at the same moment */
export async function importKeys(db: Database, batch: ImportBatch): Promise<ImportOutcome> {
  try {
    return await db.tx(async (tx) => {
      // One at a time: a client that two batches name is made once.
      await tx.query(`select pg_advisory_xact_lock(hashtext('keyturn import'))`)
      const known = await readKnown(tx, batch.keys)
      const { fresh, there, problems } = sortOut(batch, known)
      const newClients = [
        ...new Set(fresh.map(({ client }) => client).filter((client) => !CLIENT_ID.test(client) && !known.clients.has(client))),
      ]
      const answer = { imported: fresh.length, there, newClients, problems }
      if (batch.dryRun || problems.length > 0 || fresh.length === 0) return { ...answer, keyIds: [] }
      return { ...answer, keyIds: await write(tx, batch, fresh, known, newClients) }
    })
  } catch (error) {
    if (sqlState(error) !== SQL_STATES.uniqueViolation) throw error
    throw new RegistryError('import-refused', 'Another change came between; nothing of this was done. Import it again.', {
      cause: error,
    })
  }
}

interface Known {
  /** By id, and by name; a name that several clients have is `ambiguous`. */
  readonly clients: ReadonlyMap<string, ClientId | 'ambiguous'>
  /** The credentials of known digests. */
  readonly digests: ReadonlyMap<string, string>
  readonly credentials: ReadonlySet<string>
}

const credentialOf = (clientId: string, environment: string, name: string): string => `${clientId}/${environment}/${name}`

/** Primary key of clients; indexes clients_by_name, keys_by_verifier, keys_by_token, credentials_client_id_environment_name_key. */
async function readKnown(tx: Tx, keys: readonly ImportedKey[]): Promise<Known> {
  const named = [...new Set(keys.map(({ client }) => client))]
  const ids = named.filter((client) => CLIENT_ID.test(client))
  const names = named.filter((client) => !CLIENT_ID.test(client))
  const clients = new Map<string, ClientId | 'ambiguous'>()
  const byId = await tx.query<{ client_id: ClientId }>('select client_id from clients where client_id = any($1)', [ids])
  for (const { client_id } of byId.rows) clients.set(client_id, client_id)
  const byName = await tx.query<{ client_id: ClientId; name: string }>(
    'select client_id, name from clients where name = any($1)',
    [names],
  )
  for (const { client_id, name } of byName.rows) clients.set(name, clients.has(name) ? 'ambiguous' : client_id)
  const digests = await tx.query<{ sha256: string; credential: string }>(
    `select coalesce(k.verifier_sha256, k.token_sha256) as sha256, c.client_id || '/' || c.environment || '/' || c.name as credential
     from keys k join credentials c using (credential_id) where k.verifier_sha256 = any($1) or k.token_sha256 = any($1)`,
    [keys.map(({ sha256 }) => sha256)],
  )
  const credentials = await tx.query<{ credential: string }>(
    `select c.client_id || '/' || c.environment || '/' || c.name as credential
     from unnest($1::text[], $2::text[], $3::text[]) s (client_id, environment, name) join credentials c using (client_id, environment, name)`,
    [keys.map(({ client }) => clients.get(client)), keys.map((key) => key.environment), keys.map(({ name }) => name)],
  )
  return {
    clients,
    digests: new Map(digests.rows.map(({ sha256, credential }) => [sha256, credential])),
    credentials: new Set(credentials.rows.map(({ credential }) => credential)),
  }
}

/** What is new, what is there, and what can not be imported. */
function sortOut({ keys, acceptWeak, at }: ImportBatch, { clients, digests, credentials }: Known) {
  const fresh: ImportedKey[] = []
  const problems: ImportProblem[] = []
  let there = 0
  const seen = new Set<string>()
  const taken = new Set<string>()
  const flawOf = (key: ImportedKey): string | 'there' | undefined => {
    const client = clients.get(key.client)
    if (client === 'ambiguous') return 'client: several clients have this name; give the id'
    if (client === undefined && CLIENT_ID.test(key.client)) return 'client: there is none of this id'
    const credential = credentialOf(client ?? key.client, key.environment, key.name)
    if (seen.has(key.sha256)) return 'sha256: the same key as in an earlier row'
    seen.add(key.sha256)
    const known = digests.get(key.sha256)
    if (known === credential) return 'there'
    if (known !== undefined) return 'sha256: this key is in the registry already, as that of another credential'
    if (taken.has(credential)) return 'name: the same credential as in an earlier row, with another key'
    taken.add(credential)
    if (credentials.has(credential)) return 'name: the client has a credential of this name there already, with another key'
    if (key.expiresAt !== undefined && Date.parse(key.expiresAt) <= at.getTime()) return 'expiresAt: the key has expired already'
    return acceptWeak ? undefined : weaknessOf(key)
  }
  for (const [index, key] of keys.entries()) {
    const flaw = flawOf(key)
    if (flaw === undefined) fresh.push(key)
    else if (flaw === 'there') there += 1
    else problems.push({ index, message: flaw })
  }
  return { fresh, there, problems }
}

/** Writes what is new, the audit log last: its head is what everybody waits for. @returns the keys' ids */
async function write(
  tx: Tx,
  { at, actor }: ImportBatch,
  keys: readonly ImportedKey[],
  { clients }: Known,
  newClients: readonly string[],
): Promise<KeyId[]> {
  const made = new Map(newClients.map((name) => [name, `cli_${randomBase62(16)}` as ClientId]))
  const policyOf = await policiesForNew(tx)
  const rows = keys.map((key) => {
    const { environment, scopes } = key
    const clientId = (made.get(key.client) ?? clients.get(key.client)) as ClientId
    const credentialId = `crd_${randomBase62(16)}` as CredentialId
    const policy = policyOf({ clientId, environment, scopes, labels: {} })?.name ?? null
    return { ...key, clientId, credentialId, keyId: newKeyId(), policy, created: key.createdAt ?? at.toISOString() }
  })
  await tx.query(`insert into clients (client_id, name, created_at) select *, $3 from unnest($1::text[], $2::text[])`, [
    [...made.values()],
    [...made.keys()],
    at,
  ])
  const given = JSON.stringify(rows)
  // Its use is known from today on, whatever its age.
  await tx.query(
    `insert into credentials (credential_id, client_id, name, environment, scopes, policy, created_at, current_since)
     select "credentialId", "clientId", name, environment, scopes, policy, $2, created from ${ROWS}`,
    [given, at],
  )
  await tx.query(
    `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, expires_at, created_at)
     select "keyId", "credentialId", 1, 'active', 'current', 'keyturn.key.introduced', jsonb_build_object('kind', 'bearer', 'sha256', sha256),
       $2, "expiresAt", created from ${ROWS}`,
    [given, new Date(at.getTime() - CLOCK_SKEW_MS)],
  )
  await tx.query(
    `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash)
     select 0, $2::timestamptz, $3, 'client.created', client_id, null::bigint, jsonb_build_object('name', name, 'imported', true), '', ''
       from unnest($4::text[], $5::text[]) m (client_id, name)
     union all select 0, $2, $3, 'credential.created', "credentialId", null,
       jsonb_build_object('name', name, 'environment', environment, 'scopes', scopes, 'labels', '{}'::jsonb, 'imported', true), '', '' from ${ROWS}
     union all select 0, $2, $3, 'key.introduced', "keyId", 1,
       jsonb_strip_nulls(jsonb_build_object('credentialId', "credentialId", 'version', 1, 'imported', true, 'bits', bits)), '', '' from ${ROWS}`,
    [given, at, actor, [...made.values()], [...made.keys()]],
  )
  return rows.map(({ keyId }) => keyId)
}

const ROWS = `jsonb_to_recordset($1) as s ("keyId" text, "credentialId" text, "clientId" text, name text, environment text, scopes text[],
  policy text, sha256 text, created timestamptz, "expiresAt" timestamptz, bits integer)`
