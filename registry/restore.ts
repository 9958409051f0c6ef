/** A registry that was restored from a backup is behind the keys topic: what shows it, and how it takes over what it lacks. */
import {
  type ClientId,
  type CredentialId,
  DEFAULT_POLICY,
  hasEnded,
  type KeyEventType,
  type KeyId,
  type KeyRecord,
  type RotationId,
  randomBase62,
  type Verifier,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first, type Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { destroyClaimsOf, type KeyRow, lockKey, nextVersion, selectKeysIn, setStanding } from './key-rows.ts'
import { enterStage, type SqlRotation } from './rotations.ts'

/** The last that the topic says of a key. A tombstone has no record, and no revision. */
export interface PublishedKey {
  readonly keyId: KeyId
  readonly event: KeyEventType
  readonly record?: KeyRecord
}

/**
 * - `unknown`: the key was issued after the backup
 * - `behind`: the key was changed after the backup
 * - `another-history`: it was changed after the backup, and otherwise after the restore
 */
export interface Difference extends PublishedKey {
  readonly kind: 'unknown' | 'behind' | 'another-history'
}

export const fingerprintOf = async (db: Database): Promise<string> =>
  (await db.query<{ fingerprint: string }>('select registry_fingerprint() as fingerprint'))[0]?.fingerprint ?? ''

const IS_CHECKED = 'select from registry_check where fingerprint = registry_fingerprint()'

export const isChecked = async (db: Database): Promise<boolean> => (await db.query(IS_CHECKED)).length > 0

/** Notes that a database was compared with the topic: the one of which the fingerprint was taken before. */
export async function markChecked(db: Database, fingerprint: string): Promise<void> {
  await db.query('update registry_check set fingerprint = $1', [fingerprint])
}

/** @throws RegistryError registry-restored */
export async function refuseUnchecked(tx: Tx): Promise<void> {
  if ((await first(tx, IS_CHECKED)) === undefined)
    throw new RegistryError(
      'registry-restored',
      'the registry has not been compared with the keys topic since its server started',
    )
}

const PAGE = 1_000

/** Which keys the topic knows better. Those that the registry has changed and not yet published are none. Primary key, and index audit_once. */
export async function compareWithTopic(db: Database, published: readonly PublishedKey[]): Promise<Difference[]> {
  const differences: Difference[] = []
  for (let i = 0; i < published.length; i += PAGE) {
    const page = published.slice(i, i + PAGE)
    const rows = await db.query<{ key_id: KeyId; state: KeyRow['state'] | null; revision: number; action: string | null }>(
      `select t.key_id, k.state, k.revision, a.action from unnest($1::text[], $2::bigint[]) t (key_id, revision)
       left join keys k on k.key_id = t.key_id left join audit a on a.subject = t.key_id and a.revision = t.revision`,
      [page.map(({ keyId }) => keyId), page.map(({ record }) => record?.revision ?? 0)],
    )
    const known = new Map(rows.map((row) => [row.key_id, row]))
    for (const key of page) {
      const row = known.get(key.keyId)
      const { event, record } = key
      if (row === undefined || row.state === null) {
        if (record !== undefined) differences.push({ ...key, kind: 'unknown' })
      } else if (record === undefined) {
        if (row.state !== 'destroyed') differences.push({ ...key, kind: 'behind' })
      } else if (row.revision < record.revision) differences.push({ ...key, kind: 'behind' })
      else if (row.action !== event.replace('keyturn.', '')) differences.push({ ...key, kind: 'another-history' })
    }
  }
  return differences
}

export interface Recovered {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly kind: Difference['kind']
  readonly state: KeyRow['state']
}

export interface RecoverInput {
  readonly deactivateUnknown: boolean
  readonly reason: string
  readonly actor: string
  readonly at: Date
}

/**
 * Takes over what the topic says, under revisions beyond the topic's. A key that either of both knows as compromised or
 * destroyed stays so, and so does one that was switched off here and not published. Keys that were issued after the backup are
 * entered as they are: their clients use them, and only a key on record can be switched off.
 */
export async function recoverKey(db: Database, { kind, ...published }: Difference, input: RecoverInput): Promise<Recovered> {
  return db.tx(async (tx) => {
    await tx.query(`set local keyturn.recovering = 'on'`)
    if (kind === 'unknown') return adopt(tx, published, input)
    const row = await lockKey(tx, published.keyId)
    const { record } = published
    const enrolledHere = row.state === 'active' && record?.state === 'pre-activation'
    const keeps = isFinal(row.state) || enrolledHere || (hasEnded(row.state) && row.publishedRevision < row.revision)
    const state = keeps ? row.state : (record?.state ?? 'destroyed')
    const event = keeps ? row.event : published.event
    const revision = Math.max(row.revision, record?.revision ?? 0) + 1
    const verifier = verifierAfterBackup(row, record)
    await note(tx, { keyId: row.keyId, event, revision, from: row.state, to: state }, input)
    if (hasEnded(state)) {
      await setStanding(tx, row.keyId, 'retired')
      await destroyClaimsOf(tx, [row.keyId], input.at)
    }
    await tx.query(
      `update keys set state = $2, event = $3, revision = $4, sunset_at = $5, successor = $6, expires_at = $7, verifier = coalesce($8, verifier)
       where key_id = $1`,
      [row.keyId, state, event, revision, record?.sunsetAt, record?.successor, record?.expiresAt ?? row.expiresAt, verifier],
    )
    if (verifier?.kind === 'ed25519') await useClaimOf(tx, row.keyId, input.at)
    return { keyId: row.keyId, credentialId: row.credentialId, kind, state }
  })
}

/** What the client has enrolled since, and what has been sealed anew. */
function verifierAfterBackup(
  { verifier: ours, revision }: KeyRow,
  record: KeyRecord | undefined,
): Exclude<Verifier, { kind: 'bearer' }> | undefined {
  const theirs = record?.verifier
  if (ours.kind === 'ed25519' && theirs?.kind === 'ed25519')
    return ours.publicKey === undefined && theirs.publicKey !== undefined ? theirs : undefined
  return theirs?.kind === 'hmac-sha256' && ours.kind === theirs.kind && (record?.revision ?? 0) > revision ? theirs : undefined
}

/** Nobody enrols another public key with it. Index claims_by_key. */
async function useClaimOf(tx: Tx, keyId: KeyId, at: Date): Promise<void> {
  await tx.query(
    `update claims set state = 'used', ended_at = $2, kek_id = null, nonce = null, ciphertext = null where key_id = $1 and state = 'open'`,
    [keyId, at],
  )
}

const isFinal = (state: KeyRow['state']): boolean => state === 'compromised' || state === 'destroyed'

async function note(
  tx: Tx,
  { keyId, event, revision, ...detail }: { keyId: KeyId; event: KeyEventType; revision: number; from?: string; to: string },
  { at, actor, reason }: RecoverInput,
): Promise<void> {
  const action = event.replace('keyturn.', '')
  await appendAudit(tx, { at, actor, action, subject: keyId, revision, detail: { ...detail, reason, recovered: true } })
}

/** Enters a key, with placeholders for a credential and a client that are lost as well. */
async function adopt(tx: Tx, { keyId, event: last, record }: PublishedKey, input: RecoverInput): Promise<Recovered> {
  if (record === undefined) throw new Error(`the topic says nothing of key ${keyId}`)
  const { credentialId } = record
  await ensureOwner(tx, record, input)
  const taken = await first(tx, 'select from keys where credential_id = $1 and version = $2', [credentialId, record.version])
  const version = taken === undefined ? record.version : await nextVersion(tx, credentialId)
  // What was not enrolled yet can not be: its claim is lost.
  const off = (input.deactivateUnknown || record.state === 'pre-activation') && !hasEnded(record.state)
  const state = off ? 'deactivated' : record.state
  const event = off ? 'keyturn.key.deactivated' : last
  const revision = record.revision + 1
  await note(tx, { keyId, event, revision, to: state }, input)
  const sunsetAt = record.successor === undefined || record.successor <= version ? undefined : record.sunsetAt
  await tx.query(
    `insert into keys (key_id, credential_id, version, state, standing, revision, event, verifier, not_before, expires_at, sunset_at, successor, created_at)
     values ($1, $2, $3, $4, 'retired', $5, $6, $7, $8, $9, $10, $11, $12)`,
    [
      keyId,
      credentialId,
      version,
      state,
      revision,
      event,
      JSON.stringify(record.verifier),
      record.notBefore,
      record.expiresAt,
      sunsetAt,
      sunsetAt === undefined ? undefined : record.successor,
      input.at,
    ],
  )
  return { keyId, credentialId, kind: 'unknown', state }
}

async function ensureOwner(tx: Tx, record: KeyRecord, { at, actor, reason }: RecoverInput): Promise<void> {
  const { clientId, credentialId, environment, scopes, allow } = record
  const entered = async (subject: ClientId | CredentialId, inserted: number | null, action: string): Promise<void> => {
    if (inserted === 1) await appendAudit(tx, { at, actor, action, subject, detail: { reason, recovered: true } })
  }
  const client = await tx.query(
    `insert into clients (client_id, name, contacts, created_at) values ($1, $2, '[]', $3) on conflict do nothing`,
    [clientId, `recovered ${clientId}`, at],
  )
  await entered(clientId, client.rowCount, 'client.created')
  const credential = await tx.query(
    `insert into credentials (credential_id, client_id, name, environment, scopes, allow, kind, created_at)
     values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing`,
    [credentialId, clientId, `recovered ${credentialId}`, environment, scopes, allow, record.verifier.kind, at],
  )
  await entered(credentialId, credential.rowCount, 'credential.created')
}

/** What a credential is left with. */
export interface Settled {
  readonly credentialId: CredentialId
  /** Both keys are accepted: this rotation was opened, and goes on when the credential is rotated. */
  readonly opened?: RotationId
  /** Accepted beside the two newest: nobody looks after them. */
  readonly beside: readonly KeyId[]
}

/**
 * Puts a credential in order when its keys have been taken over: the newest accepted key is its successor or, alone, its current one.
 * A rotation that the topic has gone beyond is ended.
 */
export async function settleCredential(db: Database, credentialId: CredentialId, input: RecoverInput): Promise<Settled> {
  return db.tx(async (tx) => {
    await tx.query('select from credentials where credential_id = $1 for no key update', [credentialId])
    const open = await first<SqlRotation>(
      tx,
      'select * from rotations where credential_id = $1 and ended_at is null for no key update',
      [credentialId],
    )
    const keys = await selectKeysIn(tx, 'where k.credential_id = $1 order by k.version for no key update of k', [credentialId])
    const accepted = keys.filter(({ state }) => !hasEnded(state))
    const [older, newest] = accepted.length === 1 ? [accepted[0], undefined] : accepted.slice(-2)
    for (const { keyId } of keys) await setStanding(tx, keyId, 'retired')
    if (older !== undefined) await setStanding(tx, older.keyId, 'current')
    if (newest !== undefined) await setStanding(tx, newest.keyId, 'successor')

    const goesOn = open !== undefined && open.old_key_id === older?.keyId && open.new_key_id === (newest?.keyId ?? null)
    const by = { at: input.at, actor: input.actor, reason: input.reason }
    if (open !== undefined && !goesOn) {
      const stage = newest === undefined && open.old_key_id === older?.keyId ? 'rolled-back' : 'completed'
      await enterStage(tx, { ...by, rotationId: open.rotation_id, stage })
    }
    const opened = goesOn || newest === undefined || older === undefined ? undefined : await openFor(tx, older, newest, input)
    const beside = accepted.slice(0, -2).map(({ keyId }) => keyId)
    return { credentialId, beside, ...(opened === undefined ? {} : { opened }) }
  })
}

async function openFor(
  tx: Tx,
  { credentialId, clientId, keyId }: KeyRow,
  newest: KeyRow,
  input: RecoverInput,
): Promise<RotationId> {
  const rotationId = `rot_${randomBase62(16)}` as RotationId
  await tx.query(
    `insert into rotations (rotation_id, credential_id, client_id, trigger, reason, policy, old_key_id, new_key_id, opened_at)
     values ($1, $2, $3, 'manual', $4, $5, $6, $7, $8)`,
    [rotationId, credentialId, clientId, input.reason, JSON.stringify(DEFAULT_POLICY), keyId, newest.keyId, input.at],
  )
  await enterStage(tx, { rotationId, stage: 'introducing', at: input.at, actor: input.actor, reason: input.reason })
  return rotationId
}
