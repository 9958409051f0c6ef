/** A change of the key-encryption key: what is sealed under the old one is moved to the new one, after which the old one can go. */
import type { HmacVerifier, KeyId } from '@keyturn/contract'
import { ConfigError } from '../infra/config.ts'
import { appendAudit } from './audit.ts'
import { claimCodeSha256 } from './claim-codes.ts'
import { type Database, first, type Tx } from './database.ts'
import { createSealer, type Sealer } from './sealing.ts'
import { resealSigningKeys } from './signing-keys.ts'
import { resealToken } from './verifiers.ts'

/** What is sealed under one key-encryption key. */
export interface SealedUnder {
  readonly kekId: string
  readonly count: number
}

/** The tokens that requests are signed with, of keys that may still be accepted. Index keys_by_kek. */
const SEALED_VERIFIERS = `keys where kek_id is not null and state not in ('compromised', 'destroyed')`

/** Index claims_by_kek; there are few signing keys of sessions. */
const sealedUnder = (db: Database): Promise<SealedUnder[]> =>
  db.query(
    `select kek_id as "kekId", count(*) as count from (
       select kek_id from claims where state = 'open' union all select kek_id from signing_keys where kek_id is not null
       union all select kek_id from ${SEALED_VERIFIERS}
     ) sealed group by kek_id order by kek_id`,
  )

/** Whether gateways open what is sealed, so that they need the key-encryption key as well. Index keys_by_kek. */
export const gatewaysOpen = async (db: Database): Promise<boolean> =>
  (await db.query(`select from ${SEALED_VERIFIERS} limit 1`)).length > 0

/**
 * The sealer of a process, once it is known to open all that the registry holds.
 * @throws ConfigError when something is sealed under a key that the process does not have
 */
export async function openSealer(db: Database, { kek, previousKek }: { kek: Buffer; previousKek?: Buffer }): Promise<Sealer> {
  const sealer = createSealer(kek, previousKek)
  const strange = (await sealedUnder(db)).filter(({ kekId }) => !sealer.kekIds.includes(kekId))
  if (strange.length === 0) return sealer
  const what = strange.map(({ kekId, count }) => `${count} secret${count === 1 ? '' : 's'} sealed under ${kekId}`).join(', and ')
  const has = sealer.kekIds.join(' and ')
  throw new ConfigError([
    `KEYTURN_KEK: the registry holds ${what}, and this is ${has}. Give that key as the second one until \`keyturn reseal\` has moved them`,
  ])
}

export interface Resealed {
  /** The key that everything is sealed under now, but what is left. */
  readonly kekId: string
  readonly resealed: number
  readonly left: readonly SealedUnder[]
  /** Keys that have a new revision, which is to be published. */
  readonly changed: readonly KeyId[]
}

interface Reseal {
  readonly sealer: Sealer
  readonly reason?: string
  readonly at: Date
  readonly actor: string
}

/** How many secrets one transaction moves. */
const PAGE = 500

/**
 * Moves what is sealed under another key that the sealer has to its first one. May be stopped, and called again; several may at once.
 * @param input.within ms after which no further page is begun
 */
export async function reseal(db: Database, input: Reseal & { within: number }): Promise<Resealed> {
  const [kekId] = input.sealer.kekIds
  const giveUp = performance.now() + input.within
  const changed: KeyId[] = []
  let resealed = 0
  let moved = PAGE
  while (moved >= PAGE && performance.now() < giveUp) {
    const page = await resealPage(db, input)
    moved = page.moved
    resealed += moved
    changed.push(...page.changed)
  }
  const left = (await sealedUnder(db)).filter((other) => other.kekId !== kekId)
  return { kekId, resealed, left, changed }
}

/**
 * A claim's code changes with the key that it is derived from. The one that the client has been sent goes on to hand its secret out;
 * a reminder sends the new one. One page at a time, so that one of them is the last, and writes the change down.
 */
function resealPage(db: Database, { sealer, reason, at, actor }: Reseal): Promise<{ moved: number; changed: readonly KeyId[] }> {
  const [kekId, ...old] = sealer.kekIds
  return db.tx(async (tx) => {
    await tx.query(`select pg_advisory_xact_lock(hashtext('keyturn reseal'))`)
    // Keys are locked before claims.
    const keys = await lockSealedKeys(tx, old)
    const others = (await resealClaims(tx, sealer)) + (await resealSigningKeys(tx, sealer))
    await resealKeys(tx, keys, { sealer, at, actor })
    const moved = keys.length + others
    if (moved > 0 && !(await isLeft(tx, old))) {
      const detail = { from: old, ...(reason === undefined ? {} : { reason }) }
      await appendAudit(tx, { at, actor, action: 'secrets.resealed', subject: kekId, detail })
    }
    return { moved, changed: keys.map(({ key_id }) => key_id) }
  })
}

/** Indexes claims_by_kek, keys_by_kek. */
const isLeft = async (tx: Tx, old: readonly string[]): Promise<boolean> =>
  (await first(
    tx,
    `(select from claims where state = 'open' and kek_id = any($1) limit 1)
     union all (select from ${SEALED_VERIFIERS} and kek_id = any($1) limit 1)`,
    [old],
  )) !== undefined

/** Index claims_by_kek, then the primary key. */
async function resealClaims(tx: Tx, sealer: Sealer): Promise<number> {
  const [kekId, ...old] = sealer.kekIds
  const { rows } = await tx.query<{ claim_id: string; key_id: KeyId; kek_id: string; nonce: Buffer; ciphertext: Buffer }>(
    `select claim_id, key_id, kek_id, nonce, ciphertext from claims where state = 'open' and kek_id = any($1)
     limit $2 for no key update`,
    [old, PAGE],
  )
  const moved = rows.map(({ claim_id, key_id, kek_id, nonce, ciphertext }) => ({
    claimId: claim_id,
    code: claimCodeSha256(sealer, claim_id),
    ...sealer.seal(sealer.open({ kekId: kek_id, nonce, ciphertext }, key_id), key_id),
  }))
  await tx.query(
    `update claims set kek_id = $1, nonce = m.nonce, ciphertext = m.ciphertext, code_sha256 = m.code,
       former_codes = array_append(former_codes, code_sha256)
     from unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[]) m (claim_id, code, nonce, ciphertext) where claims.claim_id = m.claim_id`,
    [
      kekId,
      moved.map(({ claimId }) => claimId),
      moved.map(({ code }) => code),
      moved.map(({ nonce }) => nonce),
      moved.map(({ ciphertext }) => ciphertext),
    ],
  )
  return rows.length
}

interface SealedKey {
  readonly key_id: KeyId
  readonly revision: number
  readonly verifier: HmacVerifier
}

/** Index keys_by_kek. */
const lockSealedKeys = async (tx: Tx, old: readonly string[]): Promise<SealedKey[]> =>
  (
    await tx.query<SealedKey>(
      `select key_id, revision, verifier from ${SEALED_VERIFIERS} and kek_id = any($1)
       order by credential_id, version limit $2 for no key update`,
      [old, PAGE],
    )
  ).rows

/** Their next revision tells gateways what is sealed under the key that stays. Primary key. */
async function resealKeys(tx: Tx, keys: readonly SealedKey[], { sealer, at, actor }: Omit<Reseal, 'reason'>): Promise<void> {
  const verifiers = keys.map(({ key_id: keyId, revision, verifier }) =>
    JSON.stringify(resealToken(sealer, { keyId, verifier, revision: revision + 1 })),
  )
  const keyIds = keys.map(({ key_id }) => key_id)
  await tx.query(
    `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash)
     select 0, $2, $3, 'key.updated', key_id, revision + 1, jsonb_build_object('from', state, 'to', state, 'resealed', $4::text), '', ''
     from keys where key_id = any($1) order by credential_id, version`,
    [keyIds, at, actor, sealer.kekIds[0]],
  )
  await tx.query(
    `update keys set event = 'keyturn.key.updated', verifier = m.verifier::jsonb, revision = revision + 1
     from unnest($1::text[], $2::text[]) m (key_id, verifier) where keys.key_id = m.key_id`,
    [keyIds, verifiers],
  )
}
