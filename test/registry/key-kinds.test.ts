import { createHash, randomBytes } from 'node:crypto'
import { createSealingKey, type HmacVerifier, tokenSha256, type Verifier, verifierAad } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { claimCode, claimOfKey, redeemClaim, redeemSuccessor } from '../../registry/claims.ts'
import { createCredential, getCredential } from '../../registry/credentials.ts'
import type { Database } from '../../registry/database.ts'
import { hmslHash } from '../../registry/hmsl.ts'
import { importKeys } from '../../registry/imports.ts'
import { compromiseKey, deactivateKey, reinstateKey, retireNewKey, toKeyRecord } from '../../registry/keys.ts'
import { recordLeaks, toSighting } from '../../registry/leak-intake.ts'
import { recoverKey } from '../../registry/restore.ts'
import { createSealer } from '../../registry/sealing.ts'
import { keyForSession } from '../../registry/sessions.ts'
import { readEvidence } from '../../registry/usage.ts'
import { newPublicKey } from '../support/shown.ts'
import {
  at,
  collect,
  DAY,
  introduce,
  keyOf,
  makeCredential,
  monitored,
  open,
  openTestDatabase,
  refusalOf,
  sealer,
  tokenOf,
  usageOf,
} from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase({ max: 20 })
})
afterAll(() => db.close())

const HMAC = { kind: 'hmac-sha256' } as const
const ED25519 = { kind: 'ed25519' } as const
const make = (what: Parameters<typeof makeCredential>[3]) => makeCredential(db, 'prod', sealer, what)

const redeem = (claimId: string, publicKey?: string, ms = 0) =>
  redeemClaim(db, { code: claimCode(sealer, claimId), publicKey, at: at(ms), from: '192.0.2.1', sealer })
const outcomeOf = async (redeemed: Promise<{ outcome: string }>): Promise<string> => (await redeemed).outcome

/** A sealed token as a gateway opens it, with its key-encryption key alone. */
function opened(kek: Buffer, verifier: HmacVerifier, aad: string): string {
  const [nonce, ciphertext] = [Buffer.from(verifier.nonce, 'base64'), Buffer.from(verifier.ciphertext, 'base64')]
  return createSealingKey(kek).open({ nonce, ciphertext }, aad)
}
function hmacOf(verifier: Verifier): HmacVerifier {
  if (verifier.kind !== 'hmac-sha256') throw new Error(`it is ${verifier.kind}`)
  return verifier
}

describe('an hmac-sha256 key', () => {
  test('G5: is active, and its verifier opens to the token: with the right key, for its key id and revision alone', async () => {
    const kek = randomBytes(32)
    const own = createSealer(kek)
    const { keyId, claimId, credentialId } = await makeCredential(db, 'prod', own, HMAC)
    const row = await keyOf(db, keyId)
    expect([row.state, row.revision, (await getCredential(db, credentialId))?.kind]).toEqual(['active', 1, 'hmac-sha256'])
    const redeemed = await redeemClaim(db, { code: claimCode(own, claimId), at: at(0), from: 'test', sealer: own })
    if (redeemed.outcome !== 'handed-out') throw new Error(redeemed.outcome)
    const verifier = hmacOf(row.verifier)
    expect([verifier.revision, verifier.kekId]).toEqual([1, own.kekIds[0]])
    expect(opened(kek, verifier, verifierAad(keyId, 1))).toBe(redeemed.token)
    expect(() => opened(kek, verifier, verifierAad(keyId, 2))).toThrow()
    expect(() => opened(kek, verifier, verifierAad(`x${keyId.slice(1)}`, 1))).toThrow()
    expect(() => opened(randomBytes(32), verifier, verifierAad(keyId, 1))).toThrow()
  })

  test('G5: gateways are told neither its token nor the hash of it, and nothing that looks for a shown token finds it', async () => {
    const { keyId, claimId } = await make(HMAC)
    const token = await tokenOf(db, claimId)
    const told = JSON.stringify(toKeyRecord(await keyOf(db, keyId)))
    const hash = createHash('sha256').update(token).digest()
    for (const secret of [token, token.slice(-49), hash.toString('hex'), hash.toString('base64'), hash.toString('base64url')])
      expect(told).not.toContain(secret)
    expect(await keyForSession(db, { tokenSha256: tokenSha256(token) }, at(DAY))).toBeUndefined()
    const [found] = await db.query('select from keys where verifier_sha256 = $1', [tokenSha256(token)])
    expect(found).toBeUndefined()
    const shown = redeemSuccessor(db, { shown: { tokenSha256: tokenSha256(token) }, at: at(0), from: 'test', sealer })
    expect(await outcomeOf(shown)).toBe('shown-signing-key')
  })

  test('is followed by another of its kind, which no shown token fetches', async () => {
    const { claimId, newKeyId, newClaimId } = await monitored(db, {}, HMAC)
    const old = await tokenOf(db, claimId)
    const shown = redeemSuccessor(db, { shown: { tokenSha256: tokenSha256(old) }, at: at(0), from: 'test', sealer })
    expect(await outcomeOf(shown)).toBe('shown-signing-key')
    expect(await claimOfKey(db, newKeyId)).toMatchObject({ state: 'open' })
    expect((await keyOf(db, newKeyId)).verifier.kind).toBe('hmac-sha256')
    expect(await tokenOf(db, newClaimId)).not.toBe(old)
  })

  test('is known by a leak report, and by an import of its digest, which would make a shown token of it', async () => {
    const { keyId, claimId, clientId } = await make(HMAC)
    const token = await tokenOf(db, claimId)
    const other = await make(HMAC)
    const hmsl = await hmslHash(await tokenOf(db, other.claimId))
    const sighting = { source: 'test', url: 'https://example.com' }
    const reports = [
      toSighting({ ...sighting, tokenSha256: tokenSha256(token) }),
      { ...sighting, hash: { kind: 'hmsl', hex: hmsl } as const },
    ]
    const leaks = await recordLeaks(db, { sightings: reports, reporter: 'operator', at: at(1) })
    expect(leaks.map(({ matched }) => matched)).toEqual(['live', 'live'])
    const rows = await db.query<{ key_id: string }>('select key_id from leaks where leak_id = any($1)', [
      leaks.map(({ leakId }) => leakId),
    ])
    expect(rows.map(({ key_id }) => key_id).sort()).toEqual([keyId, other.keyId].sort())
    const key = { client: clientId, environment: 'prod', name: 'old', scopes: [], sha256: tokenSha256(token), bits: 256 } as const
    const imported = await importKeys(db, { keys: [key], acceptWeak: false, dryRun: false, at: at(0), actor: 'test' })
    expect(imported.problems).toEqual([
      { index: 0, message: 'sha256: this key is in the registry already, as that of another credential' },
    ])
  })
})

describe('an ed25519 key', () => {
  test('is not accepted until its client enrols a public key with the claim; that is a change like any other', async () => {
    const { keyId, claimId, credentialId } = await make(ED25519)
    expect(await keyOf(db, keyId)).toMatchObject({ state: 'pre-activation', revision: 1, verifier: { kind: 'ed25519' } })
    const publicKey = newPublicKey()
    expect(await redeem(claimId)).toEqual({ outcome: 'public-key-needed', credentialId })
    expect(await redeem(claimId, publicKey)).toEqual({ outcome: 'enrolled', keyId, credentialId })
    const enrolled = await keyOf(db, keyId)
    expect(enrolled).toMatchObject({ state: 'active', revision: 2, event: 'keyturn.key.introduced', publishedRevision: 0 })
    expect(enrolled.verifier).toEqual({ kind: 'ed25519', publicKey })
    const [, change] = await listAudit(db, { subject: keyId, limit: 10 })
    expect(change).toMatchObject({ action: 'key.introduced', actor: 'client', revision: 2, detail: { to: 'active' } })
    expect((await listAudit(db, { subject: claimId, limit: 10 })).map(({ action }) => action)).toEqual(['claim.used'])
  })

  test('G10: the same public key may come again, another is a second try', async () => {
    const { keyId, claimId, credentialId } = await make(ED25519)
    const publicKey = newPublicKey()
    await redeem(claimId, publicKey)
    expect(await redeem(claimId, publicKey)).toEqual({ outcome: 'enrolled', keyId, credentialId })
    expect(await redeem(claimId, newPublicKey())).toMatchObject({ outcome: 'used', credentialId })
    expect(await keyOf(db, keyId)).toMatchObject({ revision: 2, verifier: { publicKey } })
    const entries = await listAudit(db, { subject: claimId, limit: 10 })
    expect(entries.map(({ action }) => action)).toEqual(['claim.used', 'claim.second-try'])
    await compromiseKey(db, { keyId, at: at(0), actor: 'test', reason: 'leak' })
    expect(await outcomeOf(redeem(claimId, publicKey))).toBe('used')
  })

  test('G10: of twenty who enrol at the same time, exactly one does', async () => {
    const { keyId, claimId } = await make(ED25519)
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => outcomeOf(redeem(claimId, newPublicKey()))))
    expect(outcomes.sort()).toEqual(['enrolled', ...Array<string>(19).fill('used')])
    expect((await keyOf(db, keyId)).revision).toBe(2)
  })

  test('is accepted at once where its public key is known from the start, and has no claim', async () => {
    const publicKey = newPublicKey()
    const { keyId, claimId } = await make({ ...ED25519, publicKey })
    expect(await keyOf(db, keyId)).toMatchObject({ state: 'active', verifier: { kind: 'ed25519', publicKey } })
    expect([claimId, await claimOfKey(db, keyId)]).toEqual(['', undefined])
  })

  test('has a public key that no other key has, or had', async () => {
    const publicKey = newPublicKey()
    const first = await make({ ...ED25519, publicKey })
    await compromiseKey(db, { keyId: first.keyId, at: at(0), actor: 'test', reason: 'leak' })
    await expect(make({ ...ED25519, publicKey })).rejects.toThrow(expect.objectContaining({ code: 'public-key-taken' }))
    const { keyId, claimId } = await make(ED25519)
    await expect(redeem(claimId, publicKey)).rejects.toThrow(expect.objectContaining({ code: 'public-key-taken' }))
    expect(await claimOfKey(db, keyId)).toMatchObject({ state: 'open' })
    expect(await outcomeOf(redeem(claimId, newPublicKey()))).toBe('enrolled')
  })

  test('can not be enrolled with a claim that has expired, or whose key was given up', async () => {
    const late = await make(ED25519)
    expect(await outcomeOf(redeem(late.claimId, newPublicKey(), DAY))).toBe('expired')
    const gone = await make(ED25519)
    await compromiseKey(db, { keyId: gone.keyId, at: at(0), actor: 'test', reason: 'leak' })
    expect(await outcomeOf(redeem(gone.claimId, newPublicKey()))).toBe('expired')
    expect((await keyOf(db, gone.keyId)).verifier).toEqual(ED25519)
  })
})

test('a claim of a token takes no public key, and stays open', async () => {
  for (const kind of ['bearer', 'hmac-sha256'] as const) {
    const { claimId } = await make({ kind })
    expect(await outcomeOf(redeem(claimId, newPublicKey()))).toBe('no-public-key')
    expect(await outcomeOf(redeem(claimId))).toBe('handed-out')
  }
})

describe('the rotation of an ed25519 key', () => {
  const enrolled = async () => {
    const rotation = await monitored(db, { quietPeriodMs: 0 }, { ...ED25519, publicKey: newPublicKey() })
    return { ...rotation, enrol: () => redeem(rotation.newClaimId, newPublicKey()) }
  }

  test('G1: the old key is not deactivated before the new one is enrolled, whoever asks for it and why', async () => {
    const { keyId, newKeyId, by, rotationId, enrol } = await enrolled()
    expect(await readEvidence(db, rotationId)).toMatchObject({ awaitsEnrolment: true, sufficient: false })
    for (const unless of ['used', 'never'] as const)
      await expect(deactivateKey(db, { ...by, keyId, unless })).rejects.toThrow(
        `the client has not enrolled a public key for ${newKeyId} yet`,
      )
    expect((await keyOf(db, keyId)).state).toBe('active')
    expect(await outcomeOf(enrol())).toBe('enrolled')
    expect(await readEvidence(db, rotationId)).not.toHaveProperty('awaitsEnrolment')
    await collect(db, usageOf(newKeyId, 'accepted', { last: at(1) }))
    expect(await deactivateKey(db, { ...by, keyId, unless: 'never' })).toMatchObject({ deactivated: true })
    expect(await keyOf(db, newKeyId)).toMatchObject({ state: 'active', standing: 'current' })
  })

  test('goes back while the new key is not enrolled: its claim enrols nothing any more', async () => {
    const { keyId, newKeyId, by, enrol } = await enrolled()
    await reinstateKey(db, { ...by, keyId })
    await retireNewKey(db, by)
    expect(await keyOf(db, newKeyId)).toMatchObject({ state: 'deactivated', standing: 'retired' })
    expect(await outcomeOf(enrol())).toBe('expired')
  })

  test('has the new key enrolled after the old one was compromised', async () => {
    const { keyId, newKeyId, by, enrol } = await enrolled()
    await compromiseKey(db, { ...by, keyId })
    expect(await keyOf(db, newKeyId)).toMatchObject({ state: 'pre-activation', standing: 'current' })
    expect(await outcomeOf(enrol())).toBe('enrolled')
    expect(await keyOf(db, newKeyId)).toMatchObject({ state: 'active', standing: 'current' })
  })

  test('G1: of a key that was never enrolled, goes back only while the new one is not in use either', async () => {
    const { keyId, newKeyId, by } = await monitored(db, {}, ED25519)
    await reinstateKey(db, { ...by, keyId })
    await retireNewKey(db, by)
    expect((await keyOf(db, newKeyId)).state).toBe('deactivated')

    const used = await monitored(db, {}, ED25519)
    await redeem(used.newClaimId, newPublicKey())
    await reinstateKey(db, { ...used.by, keyId: used.keyId })
    await expect(retireNewKey(db, used.by)).rejects.toThrow('is the only one that the client has')
    const gone = await monitored(db, {}, ED25519)
    await redeem(gone.newClaimId, newPublicKey())
    await deactivateKey(db, { ...gone.by, keyId: gone.keyId, unless: 'never' })
    await expect(reinstateKey(db, { ...gone.by, keyId: gone.keyId })).rejects.toThrow('no public key was ever enrolled')
  })

  test('keeps the sunset that was announced of a key, when that is enrolled late', async () => {
    const { keyId, claimId } = await monitored(db, {}, ED25519)
    await redeem(claimId, newPublicKey())
    expect(await keyOf(db, keyId)).toMatchObject({ state: 'active', sunsetAt: at(14 * DAY), successor: 2 })
  })
})

describe('a restored registry', () => {
  const by = { deactivateUnknown: false, reason: 'restored', actor: 'test', at: at(0) }

  test('takes over what was enrolled after the backup, and its claim enrols nothing else', async () => {
    const { keyId, claimId } = await make(ED25519)
    const publicKey = newPublicKey()
    const record = { ...(await keyOf(db, keyId)), state: 'active', revision: 2, verifier: { ...ED25519, publicKey } } as const
    await recoverKey(db, { kind: 'behind', keyId, event: 'keyturn.key.introduced', record: toKeyRecord(record) }, by)
    expect(await keyOf(db, keyId)).toMatchObject({ state: 'active', revision: 3, verifier: { publicKey } })
    expect(await outcomeOf(redeem(claimId, newPublicKey()))).toBe('used')
    expect(await outcomeOf(redeem(claimId, publicKey))).toBe('enrolled')
  })

  test('takes over what was sealed anew after the backup', async () => {
    const { keyId, claimId } = await make(HMAC)
    const token = await tokenOf(db, claimId)
    const kek = randomBytes(32)
    const anew = createSealer(kek)
    const { kekId, nonce, ciphertext } = anew.seal(token, verifierAad(keyId, 2))
    const sealed = { nonce: nonce.toString('base64'), ciphertext: ciphertext.toString('base64') }
    const verifier: HmacVerifier = { ...HMAC, kekId, ...sealed, revision: 2 }
    const record = toKeyRecord({ ...(await keyOf(db, keyId)), revision: 2, verifier })
    await recoverKey(db, { kind: 'behind', keyId, event: 'keyturn.key.updated', record }, by)
    const row = await keyOf(db, keyId)
    expect([row.revision, opened(kek, hmacOf(row.verifier), verifierAad(keyId, 2))]).toEqual([3, token])
  })

  test('enters keys that it never knew, with the kind of their credential; one that was not enrolled yet is given up', async () => {
    const { keyId } = await make(HMAC)
    const record = toKeyRecord(await keyOf(db, keyId))
    const known = { ...record, keyId: `new${keyId.slice(3)}` as typeof keyId, credentialId: `crd_new${keyId.slice(3)}` as never }
    await recoverKey(db, { kind: 'unknown', keyId: known.keyId, event: 'keyturn.key.introduced', record: known }, by)
    expect(await keyOf(db, known.keyId)).toMatchObject({ state: 'active', revision: 2, verifier: record.verifier })
    expect(await getCredential(db, known.credentialId)).toMatchObject({ kind: 'hmac-sha256' })

    const pending = toKeyRecord(await keyOf(db, (await make(ED25519)).keyId))
    const lost = { ...pending, keyId: `old${keyId.slice(3)}` as typeof keyId, version: 9 }
    await recoverKey(db, { kind: 'unknown', keyId: lost.keyId, event: 'keyturn.key.introduced', record: lost }, by)
    expect(await keyOf(db, lost.keyId)).toMatchObject({ state: 'deactivated' })
  })
})

test('what is written of a new credential says which kind it is', async () => {
  const { credentialId } = await make(HMAC)
  const [entry] = await listAudit(db, { subject: credentialId, limit: 1 })
  expect(entry?.detail).toMatchObject({ kind: 'hmac-sha256' })
  const update = db.query(`update credentials set kind = 'bearer' where credential_id = $1`, [credentialId])
  expect(await refusalOf(update)).toBe('KT001')
  const unknown = createCredential(db, { ...(await terms()), kind: 'basic' as never })
  expect(await refusalOf(unknown)).toBe('23514')
})

async function terms() {
  const { clientId } = await make({})
  const what = { name: 'another', environment: 'prod', scopes: [], brand: 'kt', sealer } as const
  return { ...what, clientId, claimExpiresAt: at(DAY), at: at(0), actor: 'test' }
}

test('a rotation that waits for enrolment issues one key, however often it is asked', async () => {
  const credential = await make({ ...ED25519, publicKey: newPublicKey() })
  const rotationId = await open(db, credential)
  const issued = [await introduce(db, rotationId), await introduce(db, rotationId)]
  expect(issued[0]).toEqual(issued[1])
  expect((await keyOf(db, issued[0]?.keyId ?? credential.keyId)).verifier).toEqual(ED25519)
})
