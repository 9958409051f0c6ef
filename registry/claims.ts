/** Claims: each hands its key's secret out at most once (G10), and wipes it with that. */
import type { CredentialId, KeyId, RotationId } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { claimCode, claimCodeOf, sha256Hex } from './claim-codes.ts'
import { type Database, first, type Tx } from './database.ts'
import type { Sealer } from './sealing.ts'

export { claimCode, claimCodeOf }

export type ClaimState = 'open' | 'used' | 'expired' | 'destroyed'

export type Redeemed =
  | {
      readonly outcome: 'handed-out'
      readonly token: string
      readonly keyId: KeyId
      readonly credentialId: CredentialId
      readonly sunsetAt?: Date
    }
  | { readonly outcome: 'used' | 'expired'; readonly credentialId: CredentialId; readonly rotationId?: RotationId }
  | { readonly outcome: 'unknown' }

interface SqlClaim {
  claim_id: string
  key_id: KeyId
  credential_id: CredentialId
  rotation_id: RotationId | null
  state: ClaimState
  expires_at: Date
  awaited: boolean
  kek_id: string
  nonce: Buffer
  ciphertext: Buffer
}

/**
 * While its rotation is open, a claim does not expire: a rotation that is held at its deadline waits for nothing but a client that is
 * late. Primary keys.
 */
const AWAITED = `exists (select from rotations r join keys n on n.rotation_id = r.rotation_id where n.key_id = m.key_id and r.ended_at is null)`

const LOCK_CLAIM = `
select m.claim_id, m.key_id, k.credential_id, k.rotation_id, m.state, m.expires_at, m.kek_id, m.nonce, m.ciphertext, ${AWAITED} as awaited
from claims m join keys k using (key_id)`

/** How the claim of a key stands. Index claims_by_key. */
export async function claimOfKey(
  db: Database,
  keyId: KeyId,
): Promise<{ claimId: string; codeSha256: string; expiresAt: Date; state: ClaimState } | undefined> {
  const [row] = await db.query<{ claimId: string; codeSha256: string; expiresAt: Date; state: ClaimState }>(
    'select claim_id as "claimId", code_sha256 as "codeSha256", expires_at as "expiresAt", state from claims where key_id = $1',
    [keyId],
  )
  return row
}

export interface Redemption {
  readonly at: Date
  /** Where the request came from: an address. */
  readonly from: string
  readonly sealer: Sealer
}

/** Hands out the secret of a claim, by its code or a former one. Indexes claims_code_sha256_key, claims_by_former_code. */
export async function redeemClaim(db: Database, { code, ...by }: Redemption & { code: string }): Promise<Redeemed> {
  return db.tx(async (tx) => {
    const hash = sha256Hex(code)
    const claim =
      (await first<SqlClaim>(tx, `${LOCK_CLAIM} where m.code_sha256 = $1 for no key update of m`, [hash])) ??
      (await first<SqlClaim>(tx, `${LOCK_CLAIM} where m.former_codes @> array[$1] for no key update of m`, [hash]))
    return claim === undefined ? { outcome: 'unknown' } : redeem(tx, claim, by)
  })
}

/** Hands out the secret of the key that replaces the one shown. Indexes keys_by_verifier, keys_successor, claims_by_key. */
export async function redeemSuccessor(
  db: Database,
  { tokenSha256, ...by }: Redemption & { tokenSha256: string },
): Promise<Redeemed | { readonly outcome: 'refused' | 'no-successor'; readonly credentialId: CredentialId }> {
  return db.tx(async (tx) => {
    const old = await first<{ credential_id: CredentialId; state: string; allowed: boolean | null }>(
      tx,
      // Whoever shows a key that has leaked need not be its client. Index leaks_by_key.
      `select k.credential_id, k.state,
         (r.policy ->> 'successorByOldKey')::boolean and not exists (select from leaks l where l.key_id = k.key_id) as allowed
       from keys k left join rotations r on r.credential_id = k.credential_id and r.ended_at is null
       where k.verifier_sha256 = $1 for share of k`,
      [tokenSha256],
    )
    if (old === undefined) return { outcome: 'unknown' }
    const refused = { outcome: 'refused', credentialId: old.credential_id } as const
    if (old.state !== 'active') return refused
    const claim = await first<SqlClaim>(
      tx,
      `${LOCK_CLAIM} where k.credential_id = $1 and k.standing = 'successor'
         and exists (select from keys o where o.verifier_sha256 = $2 and o.standing = 'current' and o.sunset_at is not null) for no key update of m`,
      [old.credential_id, tokenSha256],
    )
    if (claim === undefined) return { outcome: 'no-successor', credentialId: old.credential_id }
    return old.allowed === true ? redeem(tx, claim, by) : refused
  })
}

async function redeem(tx: Tx, claim: SqlClaim, { at, from, sealer }: Redemption): Promise<Redeemed> {
  const about = {
    at,
    actor: 'client',
    subject: claim.claim_id,
    detail: { keyId: claim.key_id, from },
    ...(claim.rotation_id === null ? {} : { rotationId: claim.rotation_id }),
  }
  const gone = { credentialId: claim.credential_id, ...(claim.rotation_id === null ? {} : { rotationId: claim.rotation_id }) }
  if (claim.state === 'used') {
    await appendAudit(tx, { ...about, action: 'claim.second-try' })
    return { outcome: 'used', ...gone }
  }
  if (claim.state !== 'open') return { outcome: 'expired', ...gone }
  if (claim.expires_at <= at && !claim.awaited) {
    await wipe(tx, claim.claim_id, 'expired', at)
    await appendAudit(tx, { ...about, action: 'claim.expired' })
    return { outcome: 'expired', ...gone }
  }
  const token = sealer.open({ kekId: claim.kek_id, nonce: claim.nonce, ciphertext: claim.ciphertext }, claim.key_id)
  await wipe(tx, claim.claim_id, 'used', at, from)
  await appendAudit(tx, { ...about, action: 'claim.used' })
  // When the key that this one replaces goes.
  const old = await first<{ sunset_at: Date | null }>(
    tx,
    `select o.sunset_at from rotations r join keys o on o.key_id = r.old_key_id where r.rotation_id = $1`,
    [claim.rotation_id],
  )
  const sunsetAt = old?.sunset_at ?? undefined
  return {
    outcome: 'handed-out',
    token,
    keyId: claim.key_id,
    credentialId: claim.credential_id,
    ...(sunsetAt === undefined ? {} : { sunsetAt }),
  }
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
