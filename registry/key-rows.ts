/** Rows of the table `keys`, and the one way in which they come to be and change. */
import {
  type Allow,
  type ClientId,
  type CredentialId,
  type Ed25519Verifier,
  type Environment,
  type KeyDelivery,
  type KeyEventType,
  type KeyId,
  type KeyKind,
  type KeyRecord,
  type KeyState,
  newKeyId,
  type RotationId,
  randomBase62,
  type Verifier,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { claimCodeSha256 } from './claim-codes.ts'
import { type Database, first, type Tx } from './database.ts'
import { isStored } from './delivery-rows.ts'
import { RegistryError, SQL_STATES, sqlState, violated } from './errors.ts'
import type { Sealer } from './sealing.ts'
import { newVerifier } from './verifiers.ts'

/** Which of a credential's keys it is: the one the client holds, the one that replaces it, or neither any more. */
export type Standing = 'current' | 'successor' | 'retired'

export interface KeyRow {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: Environment
  readonly scopes: string[]
  readonly allow?: Allow
  readonly version: number
  readonly state: KeyState
  readonly standing: Standing
  readonly revision: number
  /** What the last change was, as gateways hear of it. */
  readonly event: KeyEventType
  readonly publishedRevision: number
  readonly verifier: Verifier
  readonly notBefore: Date
  readonly expiresAt?: Date
  readonly sunsetAt?: Date
  readonly successor?: number
  /** When its sunset was first announced. */
  readonly deprecatedAt?: Date
  readonly createdAt: Date
}

/** The statement that reads keys; what is asked for comes after it. */
export const SELECT_KEYS = `
select k.key_id, k.credential_id, c.client_id, c.environment, c.scopes, c.allow, k.version, k.state, k.standing, k.revision, k.event,
  k.published_revision, k.verifier, k.not_before, k.expires_at, k.sunset_at, k.successor, k.deprecated_at, k.created_at
from keys k join credentials c using (credential_id)`

interface SqlKey {
  key_id: KeyId
  credential_id: CredentialId
  client_id: ClientId
  environment: Environment
  scopes: string[]
  allow: Allow | null
  version: number
  state: KeyState
  standing: Standing
  revision: number
  event: KeyEventType
  published_revision: number
  verifier: Verifier
  not_before: Date
  expires_at: Date | null
  sunset_at: Date | null
  successor: number | null
  deprecated_at: Date | null
  created_at: Date
}

const toRow = (sql: SqlKey): KeyRow => ({
  keyId: sql.key_id,
  credentialId: sql.credential_id,
  clientId: sql.client_id,
  environment: sql.environment,
  scopes: sql.scopes,
  version: sql.version,
  state: sql.state,
  standing: sql.standing,
  revision: sql.revision,
  event: sql.event,
  publishedRevision: sql.published_revision,
  verifier: sql.verifier,
  notBefore: sql.not_before,
  createdAt: sql.created_at,
  ...(sql.expires_at === null ? {} : { expiresAt: sql.expires_at }),
  ...(sql.sunset_at === null ? {} : { sunsetAt: sql.sunset_at }),
  ...(sql.successor === null ? {} : { successor: sql.successor }),
  ...(sql.deprecated_at === null ? {} : { deprecatedAt: sql.deprecated_at }),
  ...(sql.allow === null ? {} : { allow: sql.allow }),
})

/** Reads keys: `where` begins with `where` or `join`, and names the index it relies on where it is written. */
export const selectKeys = async (db: Database, where: string, values: readonly unknown[]): Promise<KeyRow[]> =>
  (await db.query<SqlKey>(`${SELECT_KEYS} ${where}`, values)).map(toRow)

export const selectKeysIn = async (tx: Tx, where: string, values: readonly unknown[]): Promise<KeyRow[]> =>
  (await tx.query<SqlKey>(`${SELECT_KEYS} ${where}`, [...values])).rows.map(toRow)

/**
 * A key's row, locked until the transaction ends. Primary key. The lock is one that rows which refer to the key don't wait for:
 * usage is counted while a key is being published.
 */
export async function lockKey(tx: Tx, keyId: KeyId): Promise<KeyRow> {
  const [row] = await selectKeysIn(tx, 'where k.key_id = $1 for no key update of k', [keyId])
  if (row === undefined) throw new RegistryError('not-found', `there is no key ${keyId}`)
  return row
}

/** What gateways are told of a key. */
export const toKeyRecord = (row: KeyRow): KeyRecord => ({
  keyId: row.keyId,
  credentialId: row.credentialId,
  clientId: row.clientId,
  environment: row.environment,
  scopes: row.scopes,
  version: row.version,
  state: row.state,
  revision: row.revision,
  verifier: row.verifier,
  notBefore: row.notBefore.toISOString(),
  ...(row.expiresAt === undefined ? {} : { expiresAt: row.expiresAt.toISOString() }),
  ...(row.sunsetAt === undefined ? {} : { sunsetAt: row.sunsetAt.toISOString() }),
  ...(row.successor === undefined ? {} : { successor: row.successor }),
  ...(row.deprecatedAt === undefined ? {} : { deprecatedAt: row.deprecatedAt.toISOString() }),
  ...(row.allow === undefined ? {} : { allow: row.allow }),
})

export interface NewKey {
  readonly credentialId: CredentialId
  readonly environment: Environment
  readonly version: number
  readonly standing: Standing
  readonly rotationId?: RotationId
  readonly brand: string
  readonly sealer: Sealer
  readonly claimExpiresAt: Date
  /** Of an ed25519 credential, when the client has enrolled it already: base64. */
  readonly publicKey?: string | undefined
  readonly expiresAt?: Date
  readonly at: Date
  readonly actor: string
}

/** When a key that is made now expires, if it does. */
export const expiring = (at: Date, expiryMs: number | undefined): { expiresAt?: Date } =>
  expiryMs === undefined ? {} : { expiresAt: new Date(at.getTime() + expiryMs) }

/** Whether no gateway accepts it any more, whatever its state. */
export const hasExpired = ({ expiresAt }: Pick<KeyRow, 'expiresAt'>, at: Date): boolean =>
  expiresAt !== undefined && expiresAt <= at

/** A key that is accepted from now on says so of a little earlier, for gateways whose clock is behind ours. */
export const CLOCK_SKEW_MS = 5 * 60_000

/**
 * Issues a key of its credential's kind: the verifier goes into the row, the secret, sealed, into a claim. Where the client makes the
 * secret, the claim is for its public half; where that is known already, there is no claim. The key of a rotation may have to be written into its
 * client's store: then nobody can claim it.
 * @throws RegistryError public-key-taken
 */
export async function insertKey(tx: Tx, input: NewKey): Promise<{ keyId: KeyId; claimId?: string; toBeWritten?: boolean }> {
  const keyId = newKeyId()
  const notBefore = new Date(input.at.getTime() - CLOCK_SKEW_MS)
  // A change of the credential's permissions waits for this key, or this key for that. Primary key.
  const credential = await first<{ kind: KeyKind; permissions: number; delivery: KeyDelivery | null }>(
    tx,
    'select kind, permissions, delivery from credentials where credential_id = $1 for share',
    [input.credentialId],
  )
  if (credential === undefined) throw new RegistryError('unknown-credential', `there is no credential ${input.credentialId}`)
  const { verifier, state, token = '', tokenSha256, hmslHash } = await newVerifier(credential.kind, { ...input, keyId })
  // Only now: the audit log's head is locked until the transaction ends.
  await appendAudit(tx, {
    at: input.at,
    actor: input.actor,
    action: 'key.introduced',
    subject: keyId,
    revision: 1,
    detail: { credentialId: input.credentialId, version: input.version },
    ...(input.rotationId === undefined ? {} : { rotationId: input.rotationId }),
  })
  const insert = `insert into keys (key_id, credential_id, version, state, standing, event, verifier, token_sha256, hmsl_hash, not_before,
     expires_at, rotation_id, created_at, permissions)
   values ($1, $2, $3, $4, $5, 'keyturn.key.introduced', $6, $7, $8, $9, $10, $11, $12, $13)`
  await refusingTakenPublicKeys(
    tx.query(insert, [
      keyId,
      input.credentialId,
      input.version,
      state,
      input.standing,
      JSON.stringify(verifier),
      tokenSha256,
      hmslHash,
      notBefore,
      input.expiresAt,
      input.rotationId,
      input.at,
      credential.permissions,
    ]),
  )
  if (input.publicKey !== undefined) return { keyId }
  const claimId = randomBase62(22)
  const toBeWritten = input.rotationId !== undefined && isStored(credential.delivery)
  // Where there is no token, nothing: the claim's code hangs on a key-encryption key all the same, and changes with it.
  const sealed = input.sealer.seal(token, keyId)
  await tx.query(
    `insert into claims (claim_id, key_id, code_sha256, kek_id, nonce, ciphertext, created_at, expires_at, delivery)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      claimId,
      keyId,
      claimCodeSha256(input.sealer, claimId),
      sealed.kekId,
      sealed.nonce,
      sealed.ciphertext,
      input.at,
      input.claimExpiresAt,
      toBeWritten ? 'due' : null,
    ],
  )
  return { keyId, claimId, toBeWritten }
}

/** Index keys_by_public_key. */
async function refusingTakenPublicKeys<T>(statement: Promise<T>): Promise<T> {
  try {
    return await statement
  } catch (error) {
    if (sqlState(error) !== SQL_STATES.uniqueViolation || violated(error) !== 'keys_by_public_key') throw error
    throw new RegistryError('public-key-taken', 'this public key is, or was, that of another key: make a new pair', {
      cause: error,
    })
  }
}

export interface KeyChange {
  readonly event: KeyEventType
  readonly state: KeyState
  readonly sunsetAt?: Date
  readonly successor?: number
  /** Which of its credential's permissions it tells from now on. */
  readonly permissions?: number
  /** The public key that its client has enrolled. */
  readonly verifier?: Ed25519Verifier
}

export interface ChangedBy {
  readonly at: Date
  readonly actor: string
  readonly reason?: string
  readonly rotationId?: RotationId
}

/**
 * Changes a locked key: the next revision, and its audit entry.
 * @returns the new revision
 * @throws RegistryError illegal-transition, public-key-taken
 */
export async function changeKey(tx: Tx, row: KeyRow, change: KeyChange, by: ChangedBy): Promise<number> {
  const revision = row.revision + 1
  const action = change.event.replace('keyturn.', '')
  await appendAudit(tx, {
    at: by.at,
    actor: by.actor,
    action,
    subject: row.keyId,
    revision,
    detail: {
      from: row.state,
      to: change.state,
      ...(by.reason === undefined ? {} : { reason: by.reason }),
      ...(change.sunsetAt === undefined ? {} : { sunsetAt: change.sunsetAt.toISOString() }),
    },
    ...(by.rotationId === undefined ? {} : { rotationId: by.rotationId }),
  })
  const update = `update keys set event = $2, state = $3, sunset_at = $4, successor = $5, revision = $6, permissions = coalesce($7, permissions),
     deprecated_at = case when $4::timestamptz is null then null else coalesce(deprecated_at, $8) end, verifier = coalesce($9, verifier)
   where key_id = $1`
  const { event, state, sunsetAt, successor, permissions, verifier } = change
  const values = [row.keyId, event, state, sunsetAt, successor, revision, permissions, by.at, verifier]
  try {
    await refusingTakenPublicKeys(tx.query(update, values))
  } catch (error) {
    if (sqlState(error) !== SQL_STATES.illegalTransition) throw error
    throw new RegistryError('illegal-transition', `key ${row.keyId} is ${row.state} and can not become ${change.state}`, {
      cause: error,
    })
  }
  return revision
}

export async function setStanding(tx: Tx, keyId: KeyId, standing: Standing): Promise<void> {
  await tx.query('update keys set standing = $2 where key_id = $1 and standing <> $2', [keyId, standing])
}

/** Ends the claims of keys that nobody is to have any more, and wipes their secrets. Index claims_by_key. */
export async function destroyClaimsOf(tx: Tx, keyIds: readonly KeyId[], at: Date): Promise<void> {
  await tx.query(
    `update claims set state = case state when 'open' then 'destroyed' else state end, ended_at = coalesce(ended_at, $2),
       kek_id = null, nonce = null, ciphertext = null, jwe = null, repeatable_until = null
     where key_id = any($1) and (state = 'open' or jwe is not null)`,
    [keyIds, at],
  )
}

export const nextVersion = async (tx: Tx, credentialId: CredentialId): Promise<number> =>
  (await first<{ next: number }>(tx, 'select max(version) + 1 as next from keys where credential_id = $1', [credentialId]))
    ?.next ?? 1
