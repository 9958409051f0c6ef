/** How new keys reach their clients, and those that are written into a client's own store: each until it is noted where it is. */
import type { ClientId, CredentialId, KeyDelivery, KeyId, KeyKind, RotationId, StoreDelivery } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import type { ClaimState } from './claims.ts'
import { type Database, first, type Tx } from './database.ts'
import { CLAIM, type DeliveryState, isStored, placeText, stored } from './delivery-rows.ts'
import { RegistryError } from './errors.ts'
import type { Sealer } from './sealing.ts'

/**
 * How the keys of a credential are delivered from now on. A key that is waiting to be written can be claimed where nothing is written any more.
 * @returns its detail for the audit log, unless nothing is new
 * @throws RegistryError unknown-credential
 */
export async function changeDelivery(
  tx: Tx,
  { credentialId, delivery }: { readonly credentialId: string; readonly delivery: KeyDelivery },
): Promise<object | undefined> {
  // Primary key.
  const before = await first<{ delivery: KeyDelivery | null; same: boolean }>(
    tx,
    'select delivery, delivery is not distinct from $2 as same from credentials where credential_id = $1 for no key update',
    [credentialId, stored(delivery)],
  )
  if (before === undefined) throw new RegistryError('unknown-credential', `there is no credential ${credentialId}`)
  if (before.same) return undefined
  await tx.query('update credentials set delivery = $2 where credential_id = $1', [credentialId, stored(delivery)])
  if (!isStored(delivery)) {
    // Indexes keys_credential_id_version_key, claims_by_key.
    await tx.query(
      `update claims m set delivery = null from keys k
       where k.credential_id = $1 and m.key_id = k.key_id and m.state = 'open' and m.delivery is not null`,
      [credentialId],
    )
  }
  return { delivery, before: { delivery: before.delivery ?? CLAIM } }
}

/** What is to be written, or has been; the secret only as long as it has not been noted that it is there. */
export interface Writing {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly kind: KeyKind
  readonly version: number
  /** Where it is to be written, if it is. */
  readonly delivery: KeyDelivery
  /** Where it was written, or may have been. */
  readonly places: readonly StoreDelivery[]
  /** Where it was written when places were not kept yet, and `delivery` is another by now. */
  readonly lostPlace: string | undefined
  readonly state: ClaimState
  readonly written: DeliveryState | undefined
  readonly secret: string | undefined
}

interface SqlWriting {
  credential_id: CredentialId
  client_id: ClientId
  kind: KeyKind
  version: number
  delivery: KeyDelivery | null
  places: StoreDelivery[] | null
  claimed_from: string | null
  state: ClaimState
  written: DeliveryState | null
  kek_id: string
  nonce: Buffer
  ciphertext: Buffer
}

/** Indexes keys_pkey, claims_by_key. */
export async function readWriting(db: Database, keyId: KeyId, sealer: Sealer): Promise<Writing | undefined> {
  const [row] = await db.query<SqlWriting>(
    `select k.credential_id, c.client_id, c.kind, k.version, c.delivery, m.places, m.claimed_from, m.state,
       m.delivery as written, m.kek_id, m.nonce, m.ciphertext
     from keys k join credentials c using (credential_id) join claims m using (key_id) where k.key_id = $1`,
    [keyId],
  )
  if (row === undefined) return undefined
  const { credential_id: credentialId, client_id: clientId, kind, version, delivery, state, written } = row
  const { kek_id: kekId, nonce, ciphertext } = row
  const secret = state === 'open' && written === 'due' ? sealer.open({ kekId, nonce, ciphertext }, keyId) : undefined
  return {
    credentialId,
    clientId,
    kind,
    version,
    delivery: delivery ?? CLAIM,
    ...placesOf(row),
    state,
    written: written ?? undefined,
    secret,
  }
}

function placesOf({ places, written, delivery, claimed_from: to }: SqlWriting): Pick<Writing, 'places' | 'lostPlace'> {
  if (places !== null || written !== 'done') return { places: places ?? [], lostPlace: undefined }
  if (isStored(delivery) && placeText(delivery) === to) return { places: [delivery], lostPlace: undefined }
  return { places: [], lostPlace: to ?? '' }
}

/**
 * Notes where a key is about to be written, between reading the store and writing to it: what has read it before the registry changed its mind can
 * not write any more once the store is settled, for it has a new version then; and what reads it later is stopped here.
 * Index claims_by_key; primary keys.
 * @returns false when it is not to be written any more
 */
export async function beginWriting(db: Database, keyId: KeyId, place: StoreDelivery): Promise<boolean> {
  const begun = await db.query(
    `update claims m set places = case
       when exists (select from jsonb_array_elements(m.places) known where known = $2::jsonb) then m.places
       else coalesce(m.places, '[]') || jsonb_build_array($2::jsonb) end
     from keys k join rotations r on r.rotation_id = k.rotation_id
     where m.key_id = $1 and k.key_id = m.key_id and m.state = 'open' and m.delivery = 'due'
       and r.ended_at is null and r.stage <> 'rolling-back'
     returning m.claim_id`,
    [keyId, JSON.stringify(place)],
  )
  return begun.length > 0
}

/** Of a credential's keys, as a store that may hold some of them is to go by. */
export interface Standings {
  /** The one that its client is to hold. */
  readonly current: KeyId | undefined
  /** Those that no gateway accepts any more. */
  readonly dead: ReadonlySet<string>
}

/** Index keys_credential_id_version_key. */
export async function readStandings(db: Database, credentialId: CredentialId): Promise<Standings> {
  const keys = await db.query<{ key_id: KeyId; current: boolean; dead: boolean }>(
    `select key_id, standing = 'current' as current, state in ('deactivated', 'compromised', 'destroyed') as dead
     from keys where credential_id = $1`,
    [credentialId],
  )
  return {
    current: keys.find(({ current }) => current)?.key_id,
    dead: new Set(keys.filter(({ dead }) => dead).map(({ key_id }) => key_id)),
  }
}

interface Written {
  readonly keyId: KeyId
  readonly rotationId: RotationId
  readonly delivery: StoreDelivery
  /** Of the store: its own number or id. */
  readonly version: string
  /** In whose name it was written. */
  readonly identity: string
  readonly at: Date
}

/**
 * A key is in its client's store: the sealed secret goes, and the proof is written down, once.
 * @returns how its claim stands: `destroyed` when nobody is to have the key any more
 */
export async function noteWritten(db: Database, written: Written): Promise<ClaimState> {
  const { keyId, rotationId, delivery, version, identity, at } = written
  return db.tx(async (tx) => {
    const claim = await lockClaim(tx, keyId)
    if (claim === undefined) throw new RegistryError('not-found', `there is no claim of key ${keyId}`)
    // One that was given up meanwhile the client has been told to claim.
    if (claim.state !== 'open' || claim.delivery !== 'due') return claim.state
    const to = placeText(delivery)
    await tx.query(
      `update claims set state = 'used', delivery = 'done', ended_at = $2, claimed_from = $3, kek_id = null, nonce = null, ciphertext = null
       where claim_id = $1`,
      [claim.claim_id, at, to],
    )
    await appendAudit(tx, {
      at,
      actor: 'keyturn',
      action: 'secret.delivered',
      subject: claim.claim_id,
      rotationId,
      detail: { keyId, method: delivery.method, to, version, identity },
    })
    return 'used'
  })
}

/** The client has to claim its key: it could not be written, and there is no more time. */
export async function giveUpWriting(
  db: Database,
  { keyId, rotationId, why, at, actor }: { keyId: KeyId; rotationId: RotationId; why: string; at: Date; actor: string },
): Promise<boolean> {
  return db.tx(async (tx) => {
    const claim = await lockClaim(tx, keyId)
    if (claim?.state !== 'open' || claim.delivery !== 'due') return false
    await tx.query(`update claims set delivery = 'given-up' where claim_id = $1`, [claim.claim_id])
    await appendAudit(tx, {
      at,
      actor,
      action: 'secret.not-delivered',
      subject: claim.claim_id,
      rotationId,
      detail: { keyId, why },
    })
    return true
  })
}

/** Index claims_by_key. */
const lockClaim = (tx: Tx, keyId: KeyId) =>
  first<{ claim_id: string; state: ClaimState; delivery: DeliveryState | null }>(
    tx,
    'select claim_id, state, delivery from claims where key_id = $1 for no key update',
    [keyId],
  )
