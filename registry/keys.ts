/**
 * What happens to keys. Each change is one transaction. It locks the rotation's row first, then keys in the order of their
 * versions, then claims, and the head of the audit log (with the first entry) last, so that no two wait for each other.
 */
import type { CredentialId, Evidence, KeyEventType, KeyId, RotationId, Verifier } from '@keyturn/contract'
import { type Database, first, type Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import {
  type ChangedBy,
  changeKey,
  destroyClaimsOf,
  expiring,
  hasExpired,
  insertKey,
  type KeyRow,
  lockKey,
  nextVersion,
  selectKeys,
  selectKeysIn,
  setStanding,
} from './key-rows.ts'
import { enterStage, lockOpenRotation, lockRotation, refuseEnded, type SqlRotation, type StageNote } from './rotations.ts'
import type { Sealer } from './sealing.ts'
import { readEvidence } from './usage.ts'

export { expiring, hasExpired, insertKey, type KeyRow, toKeyRecord } from './key-rows.ts'

/** The stage that begins with a change of a key, stored in the same transaction. */
export interface WithStage {
  readonly stage?: StageNote
}

/** Primary key. */
export const getKey = async (db: Database, keyId: KeyId): Promise<KeyRow | undefined> =>
  (await selectKeys(db, 'where k.key_id = $1', [keyId]))[0]

/** By version. Index keys_credential_id_version_key. */
export const keysOfCredential = (db: Database, credentialId: CredentialId | string): Promise<KeyRow[]> =>
  selectKeys(db, 'where k.credential_id = $1 order by k.version', [credentialId])

/**
 * Issues the new key of a rotation, or answers with the one that it has already. `written`: it is for its client's store, where it may be already.
 * @throws RegistryError illegal-transition when the rotation is going back or has ended: nobody would look after the key
 */
export async function introduceSuccessor(
  db: Database,
  input: { rotationId: RotationId; brand: string; sealer: Sealer; claimExpiresAt: Date; at: Date; actor: string },
): Promise<{ keyId: KeyId; version: number; revision: number; claimId: string; written: boolean }> {
  return db.tx(async (tx) => {
    const rotation = await lockRotation(tx, input.rotationId)
    const known = rotation.new_key_id === null ? undefined : await lockKey(tx, rotation.new_key_id)
    if (known !== undefined && known.standing !== 'retired') {
      const { keyId, version, revision } = known
      return { keyId, version, revision, ...(await claimIn(tx, keyId)) }
    }
    refuseEnded(rotation)
    if (rotation.stage === 'rolling-back')
      throw new RegistryError('illegal-transition', `rotation ${input.rotationId} is rolling back and issues no key`)
    // Index keys_credential_id_version_key.
    const keys = await selectKeysIn(tx, 'where k.credential_id = $1 order by k.version for no key update of k', [
      rotation.credential_id,
    ])
    const [any] = keys
    if (any === undefined) throw new RegistryError('unknown-credential', `credential ${rotation.credential_id} has no key`)
    const hasCurrent = keys.some(({ standing }) => standing === 'current')
    const version = await nextVersion(tx, rotation.credential_id)
    await enterStage(tx, { ...input, stage: 'introducing' })
    const {
      keyId,
      claimId = '',
      toBeWritten: written = false,
    } = await insertKey(tx, {
      ...input,
      credentialId: rotation.credential_id,
      environment: any.environment,
      version,
      standing: hasCurrent ? 'successor' : 'current',
      ...expiring(input.at, rotation.policy.expiryMs),
    })
    await tx.query('update rotations set new_key_id = $2 where rotation_id = $1', [input.rotationId, keyId])
    return { keyId, version, revision: 1, claimId, written }
  })
}

/** Announces the end of the old key: sunset and successor, and the claim of the new one stays open until then. */
export async function deprecateKey(
  db: Database,
  input: { keyId: KeyId; rotationId: RotationId; sunsetAt: Date; successor: number; at: Date; actor: string } & WithStage,
): Promise<void> {
  await db.tx(async (tx) => {
    const rotation = await lockOpenRotation(tx, input.rotationId)
    const row = await lockOldKey(tx, rotation, input.keyId)
    if (row.standing !== 'current')
      throw new RegistryError('illegal-transition', `key ${row.keyId} is ${row.state}: it has no sunset to come`)
    // Index claims_by_key.
    await keepClaim(tx, rotation.new_key_id, input.sunsetAt)
    await note(tx, input, input.rotationId)
    const { sunsetAt, successor } = input
    if (row.sunsetAt?.getTime() === sunsetAt.getTime() && row.successor === successor) return
    await changeKey(tx, row, { event: 'keyturn.key.deprecated', state: row.state, sunsetAt, successor }, input)
  })
}

const NOT_ENROLLED = (oldKeyId: KeyId, newKeyId: KeyId): string =>
  `the client has not enrolled a public key for ${newKeyId} yet: without ${oldKeyId} it would have no key`

/**
 * Switches a rotation's old key off; the new one is the current one then.
 * With `unless: 'used'` (G2) it happens on sufficient evidence alone, looked at in the same transaction.
 * @throws RegistryError illegal-transition when no new key is there to take its place (G1)
 */
export async function deactivateKey(
  db: Database,
  input: { keyId: KeyId; rotationId: RotationId; at: Date; actor: string; reason: string; unless: 'used' | 'never' } & WithStage,
): Promise<{ deactivated: true; revision: number } | { deactivated: false; evidence: Evidence }> {
  return db.tx(async (tx) => {
    const rotation = await lockRotation(tx, input.rotationId)
    const row = await lockOldKey(tx, rotation, input.keyId)
    if (row.state === 'deactivated' || row.state === 'compromised') return { deactivated: true, revision: row.revision }
    refuseEnded(rotation)
    const newKey = await lockNewKey(tx, rotation)
    if (newKey?.standing === 'successor' && !isComplete(newKey.verifier))
      throw new RegistryError('illegal-transition', NOT_ENROLLED(row.keyId, newKey.keyId))
    if (newKey?.standing !== 'successor' || newKey.state !== 'active')
      throw new RegistryError('illegal-transition', `key ${row.keyId} has no active successor that could take its place`)
    if (input.unless === 'used') {
      // Usage that comes in now waits until this is decided. Primary key.
      await tx.query('select from key_usage where key_id = $1 for no key update', [input.keyId])
      const evidence = await readEvidence(tx, input.rotationId)
      if (!evidence.sufficient) return { deactivated: false, evidence }
    }
    await setStanding(tx, row.keyId, 'retired')
    await setStanding(tx, newKey.keyId, 'current')
    await note(tx, input, input.rotationId)
    await tx.query(
      `update rotations set old_refusals_base = coalesce((select refused from key_usage where key_id = $2), 0) where rotation_id = $1`,
      [input.rotationId, row.keyId],
    )
    const revision = await changeKey(tx, row, ended(row, 'keyturn.key.deactivated', 'deactivated'), input)
    return { deactivated: true, revision }
  })
}

/**
 * Makes a rotation's old key the current one again: the first half of a roll-back. The new one stays accepted.
 * @throws RegistryError illegal-transition for a compromised key (G9), and for one that has expired (G1)
 */
export async function reinstateKey(
  db: Database,
  input: { keyId: KeyId; rotationId: RotationId; at: Date; actor: string; reason: string } & WithStage,
): Promise<void> {
  await db.tx(async (tx) => {
    const rotation = await lockOpenRotation(tx, input.rotationId)
    const row = await lockOldKey(tx, rotation, input.keyId)
    if (row.state === 'compromised' || row.state === 'destroyed') {
      throw new RegistryError('illegal-transition', `key ${row.keyId} is ${row.state} and never comes back`)
    }
    if (hasExpired(row, input.at))
      throw new RegistryError('illegal-transition', `key ${row.keyId} has expired: no gateway would accept it again`)
    if (row.state === 'deactivated' && !isComplete(row.verifier)) {
      throw new RegistryError('illegal-transition', `no public key was ever enrolled for key ${row.keyId}: it can not come back`)
    }
    const newKey = await lockNewKey(tx, rotation)
    await note(tx, input, input.rotationId)
    const next: KeyRow['state'] = row.state === 'deactivated' ? 'active' : row.state
    if (next !== row.state || row.sunsetAt !== undefined)
      await changeKey(tx, row, { event: 'keyturn.key.reinstated', state: next }, input)
    if (newKey?.standing === 'current') await setStanding(tx, newKey.keyId, 'successor')
    await setStanding(tx, row.keyId, 'current')
  })
}

/**
 * Switches a rotation's new key off: the second half of a roll-back. Its claim hands nothing out any more.
 * @throws RegistryError illegal-transition while the old key is not accepted again (G1)
 */
export async function retireNewKey(
  db: Database,
  input: { rotationId: RotationId; at: Date; actor: string; reason: string },
): Promise<void> {
  await db.tx(async (tx) => {
    const rotation = await lockRotation(tx, input.rotationId)
    const oldKey = rotation.old_key_id === null ? undefined : await lockKey(tx, rotation.old_key_id)
    const row = await lockNewKey(tx, rotation)
    if (row === undefined || row.standing === 'retired') return
    refuseEnded(rotation)
    const accepted = oldKey?.standing === 'current' && oldKey.state === 'active' && !hasExpired(oldKey, input.at)
    // One that was never accepted is nobody's only one.
    if (oldKey?.standing !== 'current' || (!accepted && row.state !== 'pre-activation'))
      throw new RegistryError('illegal-transition', `key ${row.keyId} is the only one that the client has: it stays`)
    await destroyClaimsOf(tx, [row.keyId], input.at)
    await setStanding(tx, row.keyId, 'retired')
    await changeKey(tx, row, ended(row, 'keyturn.key.deactivated', 'deactivated'), input)
  })
}

/**
 * Makes a key compromised, for ever (G9). A live successor takes its place; its own claim hands nothing out any more.
 * @param input.disputed whether the rotation's new key is to go as well when two have claimed it: one of them is a thief
 * @returns its revision; and whether the rotation's new key is compromised, too, so that it must issue another
 */
export async function compromiseKey(
  db: Database,
  input: { keyId: KeyId; rotationId?: RotationId; at: Date; actor: string; reason: string; disputed?: 'too' } & WithStage,
): Promise<{ revision: number; newKeyLost?: KeyId }> {
  return db.tx(async (tx) => {
    const { newKeyLost, newKeyId, revision } = await compromiseKeyIn(tx, input)
    if (newKeyId === undefined) return { revision }
    if (newKeyLost) return { revision, newKeyLost: newKeyId }
    if (input.disputed === undefined || !(await isDisputed(tx, newKeyId))) return { revision }
    const { at, actor, reason } = input
    await compromiseKeyIn(tx, { keyId: newKeyId, at, actor, reason: `${reason}; two have claimed it` })
    return { revision, newKeyLost: newKeyId }
  })
}

/** Index claims_by_key. */
const isDisputed = async (tx: Tx, keyId: KeyId): Promise<boolean> =>
  (await first(tx, 'select from claims where key_id = $1 and disputed_at is not null', [keyId])) !== undefined

/** A client whose old key dies before it has fetched the new one still can, for so long. */
const CLAIM_AFTER_END_MS = 7 * 86_400_000

export async function compromiseKeyIn(
  tx: Tx,
  input: { keyId: KeyId; rotationId?: RotationId; at: Date; actor: string; reason: string } & WithStage,
): Promise<{ revision: number; newKeyLost: boolean; newKeyId?: KeyId }> {
  const rotation = input.rotationId === undefined ? undefined : await lockRotation(tx, input.rotationId)
  const row = await lockKey(tx, input.keyId)
  // A leak does not wait for a rotation that is over.
  const noteStage = async () => (rotation?.ended_at === null ? note(tx, input, rotation.rotation_id) : undefined)
  const newKey = rotation === undefined || rotation.new_key_id === row.keyId ? undefined : await lockNewKey(tx, rotation)
  const lost = { newKeyLost: newKey?.state === 'compromised', ...(newKey === undefined ? {} : { newKeyId: newKey.keyId }) }
  if (newKey !== undefined && rotation?.ended_at === null)
    await keepClaim(tx, newKey.keyId, new Date(input.at.getTime() + CLAIM_AFTER_END_MS))
  if (row.state === 'compromised') {
    // Killed before its rotation came to it: the rotation's stage begins all the same.
    await noteStage()
    return { revision: row.revision, ...lost }
  }
  await setStanding(tx, row.keyId, 'retired')
  if (row.standing === 'current') {
    // Index keys_successor.
    const [successor] = await selectKeysIn(tx, `where k.credential_id = $1 and k.standing = 'successor' for no key update of k`, [
      row.credentialId,
    ])
    if (successor !== undefined) await setStanding(tx, successor.keyId, 'current')
  }
  await destroyClaimsOf(tx, [row.keyId], input.at)
  await noteStage()
  return { revision: await changeKey(tx, row, ended(row, 'keyturn.key.compromised', 'compromised'), input), ...lost }
}

/**
 * Makes the new key of a running rotation compromised. The rotation has none then, and may issue another; the old key, when it
 * was switched off already and is sound, is the current one again, so that the client is not left with nothing.
 * @returns whether the old key was switched on again
 */
export async function killNewKey(
  db: Database,
  input: { keyId: KeyId; rotationId: RotationId; at: Date; actor: string; reason: string },
): Promise<{ reinstated: boolean }> {
  return db.tx((tx) => killNewKeyIn(tx, input))
}

export async function killNewKeyIn(
  tx: Tx,
  input: { keyId: KeyId; rotationId: RotationId; at: Date; actor: string; reason: string },
): Promise<{ reinstated: boolean }> {
  const rotation = await lockRotation(tx, input.rotationId)
  const oldKey = rotation.old_key_id === null ? undefined : await lockKey(tx, rotation.old_key_id)
  await compromiseKeyIn(tx, { keyId: input.keyId, at: input.at, actor: input.actor, reason: input.reason })
  if (rotation.ended_at !== null || rotation.new_key_id !== input.keyId) return { reinstated: false }
  await tx.query('update rotations set new_key_id = null where rotation_id = $1', [input.rotationId])
  if (oldKey?.state !== 'deactivated' || !isComplete(oldKey.verifier)) return { reinstated: false }
  await changeKey(tx, oldKey, { event: 'keyturn.key.reinstated', state: 'active' }, input)
  await setStanding(tx, oldKey.keyId, 'current')
  return { reinstated: true }
}

async function note(tx: Tx, input: ChangedBy & WithStage, rotationId: RotationId): Promise<void> {
  if (input.stage !== undefined) await enterStage(tx, { at: input.at, actor: input.actor, rotationId, ...input.stage })
}

/** A late try that names another key must change nothing. */
async function lockOldKey(tx: Tx, rotation: SqlRotation, keyId: KeyId): Promise<KeyRow> {
  if (rotation.old_key_id !== keyId)
    throw new RegistryError('illegal-transition', `key ${keyId} is not the old key of rotation ${rotation.rotation_id}`)
  return lockKey(tx, keyId)
}

const lockNewKey = async (tx: Tx, rotation: SqlRotation): Promise<KeyRow | undefined> =>
  rotation.new_key_id === null ? undefined : lockKey(tx, rotation.new_key_id)

/** Whether there is something to check requests with. */
const isComplete = (verifier: Verifier): boolean => verifier.kind !== 'ed25519' || verifier.publicKey !== undefined

/** A key that ends keeps its sunset: it says when that was announced for. */
const ended = (row: KeyRow, event: KeyEventType, state: KeyRow['state']) => ({
  event,
  state,
  ...(row.sunsetAt === undefined ? {} : { sunsetAt: row.sunsetAt }),
  ...(row.successor === undefined ? {} : { successor: row.successor }),
})

/** Index claims_by_key. */
async function claimIn(tx: Tx, keyId: KeyId): Promise<{ claimId: string; written: boolean }> {
  const claim = await first<{ claim_id: string; written: boolean }>(
    tx,
    `select claim_id, coalesce(delivery in ('due', 'done'), false) as written from claims where key_id = $1`,
    [keyId],
  )
  return { claimId: claim?.claim_id ?? '', written: claim?.written ?? false }
}

/** Primary key; index claims_by_key. */
const keepClaim = (tx: Tx, keyId: KeyId | null, until: Date): Promise<unknown> =>
  tx.query(`update claims set expires_at = greatest(expires_at, $2) where key_id = $1 and state = 'open'`, [keyId, until])
