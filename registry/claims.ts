/**
 * Claims: each hands its key's secret out at most once (G10), and wipes it with that; where the client makes the secret, it takes the public
 * half, once. A secret that goes out encrypted to a recipient goes out once as well, to that recipient: it may be fetched again for a while.
 */
import {
  CLAIM_REPEATABLE_MS,
  type CredentialId,
  type Ed25519Verifier,
  type KeyDelivery,
  type KeyId,
  type KeyKind,
  type RotationId,
  type Verifier,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { mayOpen } from './by-old-key.ts'
import { claimCode, claimCodeOf, sha256Hex } from './claim-codes.ts'
import { type Database, first, type Tx } from './database.ts'
import type { DeliveryState } from './delivery-rows.ts'
import { RegistryError } from './errors.ts'
import { changeKey, type KeyRow, lockKey } from './key-rows.ts'
import { encryptTo, type ReadRecipient, readRecipient } from './recipients.ts'
import type { Sealer } from './sealing.ts'
import { type Shown, shownIs } from './shown-keys.ts'

export { claimCode, claimCodeOf }

export type ClaimState = 'open' | 'used' | 'expired' | 'destroyed'

interface DeliveredKey {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly sunsetAt?: Date
}

export type Redeemed =
  | ({ readonly outcome: 'handed-out'; readonly token: string } & DeliveredKey)
  | ({ readonly outcome: 'encrypted'; readonly jwe: string } & DeliveredKey)
  | ({ readonly outcome: 'enrolled' } & DeliveredKey)
  /** It hands out a token and takes no public key; or the other way round. It stays open. */
  | { readonly outcome: 'no-public-key' | 'public-key-needed' | 'no-recipient'; readonly credentialId: CredentialId }
  /** Its secret goes to the recipient that is registered alone; or into the client's own store. It stays as it is. */
  | { readonly outcome: 'other-recipient' | 'delivered-elsewhere'; readonly credentialId: CredentialId }
  | ({ readonly outcome: 'used' } & UsedClaim)
  | { readonly outcome: 'expired'; readonly credentialId: CredentialId; readonly rotationId?: RotationId }
  | { readonly outcome: 'unknown' }

/** Somebody has the secret: the client, or a thief. */
export interface UsedClaim {
  readonly credentialId: CredentialId
  readonly keyId: KeyId
  readonly rotationId?: RotationId
  /** The rotation that has issued the key is under way. */
  readonly rotationRuns: boolean
  readonly usedAt?: Date
  readonly usedFrom?: string
}

interface SqlClaim {
  claim_id: string
  key_id: KeyId
  credential_id: CredentialId
  rotation_id: RotationId | null
  verifier: Verifier
  state: ClaimState
  expires_at: Date
  awaited: boolean
  kek_id: string
  nonce: Buffer
  ciphertext: Buffer
  recipient: string | null
  jwe: string | null
  repeatable_until: Date | null
  ended_at: Date | null
  claimed_from: string | null
  written: DeliveryState | null
  delivery: KeyDelivery | null
}

/**
 * While its rotation is open, a claim does not expire: a rotation that is held at its deadline waits for nothing but a client that is
 * late. Primary keys.
 */
const AWAITED = `exists (select from rotations r join keys n on n.rotation_id = r.rotation_id where n.key_id = m.key_id and r.ended_at is null)`

const LOCK_CLAIM = `
select m.claim_id, m.key_id, k.credential_id, k.rotation_id, k.verifier, m.state, m.expires_at, m.kek_id, m.nonce, m.ciphertext,
  m.recipient, m.jwe, m.repeatable_until, m.ended_at, m.claimed_from, m.delivery as written, c.delivery, ${AWAITED} as awaited
from claims m join keys k using (key_id) join credentials c using (credential_id)`

export interface ClaimOfKey {
  readonly claimId: string
  readonly codeSha256: string
  readonly expiresAt: Date
  readonly state: ClaimState
  /** Of a key that is written into its client's store. */
  readonly written?: DeliveryState
  /** By whom it was claimed, or where it was written. */
  readonly claimedFrom?: string
}

/** How the claim of a key stands. Index claims_by_key. */
export async function claimOfKey(db: Database, keyId: KeyId): Promise<ClaimOfKey | undefined> {
  const [row] = await db.query<
    Omit<ClaimOfKey, 'written' | 'claimedFrom'> & { written: DeliveryState | null; claimedFrom: string | null }
  >(
    `select claim_id as "claimId", code_sha256 as "codeSha256", expires_at as "expiresAt", state, delivery as written,
       claimed_from as "claimedFrom"
     from claims where key_id = $1`,
    [keyId],
  )
  if (row === undefined) return undefined
  const { written, claimedFrom, ...claim } = row
  return { ...claim, ...(written === null ? {} : { written }), ...(claimedFrom === null ? {} : { claimedFrom }) }
}

/**
 * The code of the claim of a rotation's new key, for the provider to give to its client; who asked for it is written down. It hands
 * nothing out, and the claim stays as it is. Primary keys; index claims_by_key.
 * @throws RegistryError unknown-rotation; wrong-stage before there is a new key; claim-used, claim-expired or delivered-elsewhere where
 *   the claim hands nothing out any more
 */
export async function showClaim(
  db: Database,
  { rotationId, sealer, at, actor, reason }: { rotationId: RotationId; sealer: Sealer; at: Date; actor: string; reason: string },
): Promise<{ code: string; keyId: KeyId; kind: KeyKind; expiresAt?: Date }> {
  return db.tx(async (tx) => {
    const rotation = await first<{ new_key_id: KeyId | null }>(tx, 'select new_key_id from rotations where rotation_id = $1', [
      rotationId,
    ])
    if (rotation === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${rotationId}`)
    const claim = await first<SqlClaim & { code_sha256: string }>(
      tx,
      `select m.code_sha256, c.* from (${LOCK_CLAIM}) c join claims m using (claim_id) where c.key_id = $1`,
      [rotation.new_key_id],
    )
    if (claim === undefined) throw new RegistryError('wrong-stage', `rotation ${rotationId} has no new key that is claimed`)
    const { claim_id: claimId, key_id: keyId, code_sha256: codeSha256, verifier, awaited } = claim
    if (claim.written === 'due' || claim.written === 'done')
      throw new RegistryError('delivered-elsewhere', `key ${keyId} is written into the client's own store`)
    if (claim.state === 'used')
      throw new RegistryError(
        'claim-used',
        `key ${keyId} was handed out at ${claim.ended_at?.toISOString() ?? 'some time'}: where that was not the client, have it replaced`,
      )
    if (claim.state !== 'open' || (claim.expires_at <= at && !awaited))
      throw new RegistryError('claim-expired', `the secret of key ${keyId} can not be had any more: start another rotation`)
    const code = claimCodeOf(sealer, { claimId, codeSha256 })
    await appendAudit(tx, { at, actor, action: 'claim.shown', subject: claimId, rotationId, detail: { keyId, reason } })
    return { code, keyId, kind: verifier.kind, ...(awaited ? {} : { expiresAt: claim.expires_at }) }
  })
}

export interface Redemption {
  readonly at: Date
  /** Where the request came from: an address. */
  readonly from: string
  readonly sealer: Sealer
  /** Whom the secret is encrypted to; without one it goes out as it is. */
  readonly recipient?: ReadRecipient | undefined
}

/**
 * Hands out the secret of a claim, by its code or a former one; or enrols the public key that is given. The same public key may come
 * again. Indexes claims_code_sha256_key, claims_by_former_code.
 * @param input.publicKey base64 with padding
 * @throws RegistryError public-key-taken
 */
export async function redeemClaim(
  db: Database,
  { code, publicKey, ...by }: Redemption & { code: string; publicKey?: string | undefined },
): Promise<Redeemed> {
  return db.tx(async (tx) => {
    const hash = sha256Hex(code)
    // Keys are locked before claims; bearers need no lock of their key.
    const of = await first<{ claim_id: string; key_id: KeyId; kind: KeyKind }>(tx, CLAIM_OF_CODE, [hash])
    if (of === undefined) return { outcome: 'unknown' }
    const key = of.kind === 'ed25519' ? await lockKey(tx, of.key_id) : undefined
    const claim = await first<SqlClaim>(tx, `${LOCK_CLAIM} where m.claim_id = $1 for no key update of m`, [of.claim_id])
    if (claim === undefined) return { outcome: 'unknown' }
    const { credential_id: credentialId } = claim
    if (key === undefined) return publicKey === undefined ? redeem(tx, claim, by) : { outcome: 'no-public-key', credentialId }
    if (by.recipient !== undefined) return { outcome: 'no-recipient', credentialId }
    return publicKey === undefined ? { outcome: 'public-key-needed', credentialId } : enrol(tx, claim, key, { ...by, publicKey })
  })
}

const CLAIM_OF_CODE = `
select m.claim_id, m.key_id, k.verifier ->> 'kind' as kind from claims m join keys k using (key_id)
where m.code_sha256 = $1 or m.former_codes @> array[$1]`

/**
 * Hands out the secret of the key that replaces the one shown, or enrols the public key that is given. A key that signs requests is shown
 * by a signature alone; what replaces it travels to a recipient alone.
 * Indexes keys_by_verifier, keys_by_token, keys_successor, claims_by_key.
 * @param input.publicKey base64 with padding
 * @throws RegistryError public-key-taken
 */
export async function redeemSuccessor(
  db: Database,
  { shown, publicKey, ...by }: Redemption & { shown: Shown; publicKey?: string | undefined },
): Promise<
  | Redeemed
  | {
      readonly outcome: 'refused' | 'no-successor' | 'shown-signing-key' | 'recipient-needed'
      readonly credentialId: CredentialId
    }
> {
  return db.tx(async (tx) => {
    const { condition, value } = shownIs(shown, 'k')
    const old = await first<{
      key_id: KeyId
      credential_id: CredentialId
      kind: KeyKind
      state: string
      allowed: boolean | null
    }>(
      tx,
      `select k.key_id, k.credential_id, k.verifier ->> 'kind' as kind, k.state, ${mayOpen('k')} as allowed
       from keys k left join rotations r on r.credential_id = k.credential_id and r.ended_at is null
       where ${condition} for share of k`,
      [value],
    )
    if (old === undefined) return 'keyId' in shown ? { outcome: 'unknown' } : await ofShownSigningKey(tx, shown.tokenSha256)
    const { credential_id: credentialId, kind } = old
    if (old.state !== 'active') return { outcome: 'refused', credentialId }
    // Keys are locked before claims; bearers need no lock of their key.
    const next = kind === 'ed25519' ? await successorOf(tx, credentialId) : undefined
    const key = next === undefined ? undefined : await lockKey(tx, next)
    const claim = await first<SqlClaim>(
      tx,
      `${LOCK_CLAIM} where k.credential_id = $1 and k.standing = 'successor'
         and exists (select from keys o where o.key_id = $2 and o.standing = 'current' and o.sunset_at is not null) for no key update of m`,
      [credentialId, old.key_id],
    )
    if (claim === undefined) return { outcome: 'no-successor', credentialId }
    if (old.allowed !== true) return { outcome: 'refused', credentialId }
    // Before all else: a program that sees the notice, and has not looked into its store, is no thief.
    if (claim.written === 'due' || claim.written === 'done') return { outcome: 'delivered-elsewhere', credentialId }
    if (kind === 'ed25519') {
      if (by.recipient !== undefined) return { outcome: 'no-recipient', credentialId }
      if (publicKey === undefined || key === undefined) return { outcome: 'public-key-needed', credentialId }
      return enrol(tx, claim, key, { ...by, publicKey })
    }
    if (publicKey !== undefined) return { outcome: 'no-public-key', credentialId }
    if (kind === 'hmac-sha256' && by.recipient === undefined && claim.delivery?.method !== 'jwe')
      return { outcome: 'recipient-needed', credentialId }
    return redeem(tx, claim, by)
  })
}

/** Index keys_successor. */
const successorOf = async (tx: Tx, credentialId: CredentialId): Promise<KeyId | undefined> =>
  (
    await first<{ key_id: KeyId }>(tx, `select key_id from keys where credential_id = $1 and standing = 'successor'`, [
      credentialId,
    ])
  )?.key_id

async function ofShownSigningKey(
  tx: Tx,
  tokenSha256: string,
): Promise<{ outcome: 'unknown' } | { outcome: 'shown-signing-key'; credentialId: CredentialId }> {
  const key = await first<{ credential_id: CredentialId }>(tx, 'select credential_id from keys where token_sha256 = $1', [
    tokenSha256,
  ])
  return key === undefined ? { outcome: 'unknown' } : { outcome: 'shown-signing-key', credentialId: key.credential_id }
}

type Ending = Pick<Redemption, 'at' | 'from'>

/** What every entry of the audit log says of it. */
const about = ({ claim_id, key_id, rotation_id }: SqlClaim, { at, from }: Ending, recipient?: ReadRecipient) => ({
  at,
  actor: 'client',
  subject: claim_id,
  detail: { keyId: key_id, from, ...(recipient === undefined ? {} : { recipient: recipient.thumbprint }) },
  ...(rotation_id === null ? {} : { rotationId: rotation_id }),
})

/** Why a claim can not be used, if it can not; written down. */
async function refusal(tx: Tx, claim: SqlClaim, by: Ending): Promise<Redeemed | undefined> {
  const { credential_id: credentialId, rotation_id } = claim
  const gone = { credentialId, ...(rotation_id === null ? {} : { rotationId: rotation_id }) }
  if (claim.state === 'used') {
    // An emergency does not trust the key that went out with it any more.
    await tx.query('update claims set disputed_at = $2 where claim_id = $1 and disputed_at is null', [claim.claim_id, by.at])
    await appendAudit(tx, { ...about(claim, by), action: 'claim.second-try' })
    return {
      outcome: 'used',
      ...gone,
      keyId: claim.key_id,
      rotationRuns: claim.awaited,
      ...(claim.ended_at === null ? {} : { usedAt: claim.ended_at }),
      ...(claim.claimed_from === null ? {} : { usedFrom: claim.claimed_from }),
    }
  }
  if (claim.state !== 'open') return { outcome: 'expired', ...gone }
  if (claim.expires_at > by.at || claim.awaited) return undefined
  await wipe(tx, claim.claim_id, 'expired', by.at)
  await appendAudit(tx, { ...about(claim, by), action: 'claim.expired' })
  return { outcome: 'expired', ...gone }
}

async function redeem(tx: Tx, claim: SqlClaim, { sealer, recipient: named, ...by }: Redemption): Promise<Redeemed> {
  const { credential_id: credentialId, delivery } = claim
  const registered = delivery?.method === 'jwe' ? await readRecipient({ ...delivery.recipient }) : undefined
  if (registered !== undefined && named !== undefined && named.thumbprint !== registered.thumbprint)
    return { outcome: 'other-recipient', credentialId }
  const recipient = registered ?? named
  const again = recipient === undefined ? undefined : await repeated(tx, claim, recipient, by)
  if (again !== undefined) return again
  const refused = await refusal(tx, claim, by)
  if (refused !== undefined) return refused
  if (claim.written === 'due') return { outcome: 'delivered-elsewhere', credentialId }
  const token = sealer.open({ kekId: claim.kek_id, nonce: claim.nonce, ciphertext: claim.ciphertext }, claim.key_id)
  const jwe = recipient === undefined ? undefined : await encryptTo(recipient, token)
  await wipe(tx, claim.claim_id, 'used', by.at, by.from)
  if (recipient !== undefined) {
    await tx.query('update claims set recipient = $2, jwe = $3, repeatable_until = $4 where claim_id = $1', [
      claim.claim_id,
      recipient.thumbprint,
      jwe,
      new Date(by.at.getTime() + CLAIM_REPEATABLE_MS),
    ])
  }
  await appendAudit(tx, { ...about(claim, by, recipient), action: 'claim.used' })
  const key = await deliveredKey(tx, claim)
  return jwe === undefined ? { outcome: 'handed-out', token, ...key } : { outcome: 'encrypted', jwe, ...key }
}

/** The answer that a recipient was given before, for the one that it went to may be lost. Nobody else can read it. */
async function repeated(tx: Tx, claim: SqlClaim, recipient: ReadRecipient, by: Ending): Promise<Redeemed | undefined> {
  const { jwe, repeatable_until: until } = claim
  if (jwe === null || until === null) return undefined
  if (until <= by.at) {
    await tx.query('update claims set jwe = null, repeatable_until = null where claim_id = $1', [claim.claim_id])
    return undefined
  }
  if (claim.recipient !== recipient.thumbprint) return undefined
  await appendAudit(tx, { ...about(claim, by, recipient), action: 'claim.repeated' })
  return { outcome: 'encrypted', jwe, ...(await deliveredKey(tx, claim)) }
}

/** Takes the public key that makes a key accepted; the same one again is no second try, for an answer may be lost. */
async function enrol(
  tx: Tx,
  claim: SqlClaim,
  key: KeyRow,
  { publicKey, ...by }: Ending & { publicKey: string },
): Promise<Redeemed> {
  const verifier: Ed25519Verifier = { kind: 'ed25519', publicKey }
  const again = claim.state === 'used' && key.verifier.kind === 'ed25519' && key.verifier.publicKey === publicKey
  if (again && key.state === 'active') return { outcome: 'enrolled', ...(await deliveredKey(tx, claim)) }
  const refused = await refusal(tx, claim, by)
  if (refused !== undefined) return refused
  if (key.state !== 'pre-activation')
    throw new RegistryError('illegal-transition', `key ${key.keyId} is ${key.state}: no public key can be enrolled for it`)
  await wipe(tx, claim.claim_id, 'used', by.at, by.from)
  const { at, actor, rotationId } = { rotationId: undefined, ...about(claim, by) }
  const { sunsetAt, successor } = key
  const kept = { ...(sunsetAt === undefined ? {} : { sunsetAt }), ...(successor === undefined ? {} : { successor }) }
  const change = { event: 'keyturn.key.introduced', state: 'active', verifier, ...kept } as const
  await changeKey(tx, key, change, { at, actor, ...(rotationId === undefined ? {} : { rotationId }) })
  await appendAudit(tx, { ...about(claim, by), action: 'claim.used' })
  return { outcome: 'enrolled', ...(await deliveredKey(tx, claim)) }
}

/** The key that the client has now, and when the one that it replaces goes. */
async function deliveredKey(tx: Tx, { key_id, credential_id, rotation_id }: SqlClaim): Promise<DeliveredKey> {
  const old = await first<{ sunset_at: Date | null }>(
    tx,
    `select o.sunset_at from rotations r join keys o on o.key_id = r.old_key_id where r.rotation_id = $1`,
    [rotation_id],
  )
  const sunsetAt = old?.sunset_at ?? undefined
  return { keyId: key_id, credentialId: credential_id, ...(sunsetAt === undefined ? {} : { sunsetAt }) }
}

async function wipe(tx: Tx, claimId: string, state: ClaimState, at: Date, from?: string): Promise<void> {
  await tx.query(
    'update claims set state = $2, ended_at = $3, claimed_from = $4, kek_id = null, nonce = null, ciphertext = null where claim_id = $1',
    [claimId, state, at, from],
  )
}

/** How many claims one transaction wipes: it holds the head of the audit log for that long. */
const WIPED_AT_ONCE = 200

/** Wipes the secrets that nobody claimed in time. Several may at once. @returns how many */
export async function destroyExpiredClaims(db: Database, at: Date): Promise<number> {
  let wiped = 0
  for (;;) {
    const some = await destroySomeExpiredClaims(db, at)
    wiped += some
    if (some < WIPED_AT_ONCE) return wiped
  }
}

/** Index claims_open; then the primary key. */
export const WIPE_EXPIRED = `
with expired as (
  select m.claim_id from claims m where m.state = 'open' and m.expires_at <= $1 and not ${AWAITED}
  order by m.expires_at limit $2 for no key update of m skip locked
)
update claims set state = 'expired', ended_at = $1, kek_id = null, nonce = null, ciphertext = null
from expired where claims.claim_id = expired.claim_id returning claims.claim_id, claims.key_id`

async function destroySomeExpiredClaims(db: Database, at: Date): Promise<number> {
  return db.tx(async (tx) => {
    const { rows } = await tx.query<{ claim_id: string; key_id: KeyId }>(WIPE_EXPIRED, [at, WIPED_AT_ONCE])
    for (const { claim_id, key_id } of rows) {
      await appendAudit(tx, { at, actor: 'keyturn', action: 'claim.expired', subject: claim_id, detail: { keyId: key_id } })
    }
    return rows.length
  })
}

/** Wipes the answers that can not be had again any more. Several may at once. Index claims_repeatable. @returns how many */
export async function wipeRepeatableClaims(db: Database, at: Date): Promise<number> {
  const wiped = await db.query<object>(
    `with over as (
       select claim_id from claims where jwe is not null and repeatable_until <= $1 order by repeatable_until for no key update skip locked
     )
     update claims m set jwe = null, repeatable_until = null from over where m.claim_id = over.claim_id returning m.claim_id`,
    [at],
  )
  return wiped.length
}
