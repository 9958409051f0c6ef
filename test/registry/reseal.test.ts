/** A change of the key-encryption key, while claims are open. */
import { randomBytes } from 'node:crypto'
import { createSealingKey, verifierAad } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { listAudit, verifyAudit } from '../../registry/audit.ts'
import { claimCode, claimCodeOf, claimOfKey, redeemClaim } from '../../registry/claims.ts'
import type { Database } from '../../registry/database.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { gatewaysOpen, openSealer, reseal } from '../../registry/reseal.ts'
import { createSealer, type Sealer } from '../../registry/sealing.ts'
import { publishedKeys, signingKeyAt } from '../../registry/signing-keys.ts'
import { at, keyOf, makeCredential, sealer as old, openTestDatabase, type TestCredential } from './world.ts'

const previousKek = randomBytes(32)
const kek = randomBytes(32)
/** Claims by hand; three of credentials, and the key of sessions, come to them. */
const MANY = 520
const ALL = MANY + 4

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const redeem = (code: string, sealer: Sealer) => redeemClaim(db, { code, at: at(1), from: 'test', sealer })
const move = (sealer: Sealer, within = 60_000) => reseal(db, { sealer, at: at(0), actor: 'alice', reason: 'yearly', within })
const codeOf = async (sealer: Sealer, { keyId }: TestCredential): Promise<string> => {
  const claim = await claimOfKey(db, keyId)
  if (claim === undefined) throw new Error('there is no claim')
  return claimCodeOf(sealer, claim)
}

test('G5, G7, G10: resealed in pages, gone on with, audited once; links that clients have go on to work, each once', async () => {
  // What world.ts makes is sealed under a key of its own; here each credential is made under the old key of this test.
  const before = createSealer(previousKek)
  const ring = createSealer(kek, previousKek)
  const made: TestCredential[] = []
  for (let i = 0; i < 3; i++) made.push(await makeCredential(db, 'prod', before))
  const [one, two, three] = made as [TestCredential, TestCredential, TestCredential]
  const link = claimCode(before, one.claimId)
  // Before the move, a reminder repeats the old link, and it works with both.
  expect(await codeOf(ring, one)).toBe(link)
  await copies(before, MANY)
  const terms = { periodMs: 86_400_000, at: at(0) }
  await publishedKeys(db, { ...terms, sealer: before })

  expect(await openSealer(db, { kek, previousKek }).then(({ kekIds }) => kekIds)).toEqual(ring.kekIds)
  await expect(openSealer(db, { kek })).rejects.toThrow(
    `${ALL} secrets sealed under ${before.kekIds[0]}, and this is ${ring.kekIds[0]}. Give that key as the second one`,
  )
  // Stopped before its first page; then after one.
  expect(await move(ring, 0)).toMatchObject({ resealed: 0, left: [{ kekId: before.kekIds[0], count: ALL }] })
  expect(await listAudit(db, { subject: ring.kekIds[0], limit: 10 })).toEqual([])
  const results = await Promise.all([move(ring), move(ring)])
  expect(results[0].resealed + results[1].resealed).toBe(ALL)
  expect(await move(ring)).toEqual({ kekId: ring.kekIds[0], resealed: 0, left: [], changed: [] })
  const entries = await listAudit(db, { subject: ring.kekIds[0], limit: 10 })
  expect(entries.map(({ action, actor, detail }) => ({ action, actor, detail }))).toEqual([
    { action: 'secrets.resealed', actor: 'alice', detail: { from: [before.kekIds[0]], reason: 'yearly' } },
  ])
  expect(await verifyAudit(db)).toMatchObject({ ok: true })

  // The old key is gone.
  const after = await openSealer(db, { kek })
  expect((await signingKeyAt(db, { ...terms, sealer: after })).secret).not.toBe('')
  const reminded = await codeOf(after, two)
  expect(reminded).not.toBe(claimCode(before, two.claimId))
  expect(await redeem(link, after)).toMatchObject({ outcome: 'handed-out', keyId: one.keyId })
  expect((await redeem(link, after)).outcome).toBe('used')
  expect(await redeem(reminded, after)).toMatchObject({ outcome: 'handed-out', keyId: two.keyId })
  expect((await redeem(claimCode(before, two.claimId), after)).outcome).toBe('used')
  // Changed once more, the first link still works.
  const third = createSealer(randomBytes(32), kek)
  await move(third)
  expect(await redeem(claimCode(before, three.claimId), third)).toMatchObject({ outcome: 'handed-out', keyId: three.keyId })
})

test('G4, G5: tokens that requests are signed with are moved as well, each under the next revision of its key, which is to be published', async () => {
  const own = await openTestDatabase()
  const before = createSealer(previousKek)
  const ring = createSealer(kek, previousKek)
  const make = () => makeCredential(own, 'prod', before, { kind: 'hmac-sha256' })
  const [used, dead, pending] = [await make(), await make(), await makeCredential(own, 'prod', before, { kind: 'ed25519' })]
  const redeemed = await redeemClaim(own, { code: claimCode(before, used.claimId), at: at(0), from: 'test', sealer: before })
  const token = redeemed.outcome === 'handed-out' ? redeemed.token : ''
  await compromiseKey(own, { keyId: dead.keyId, at: at(0), actor: 'test', reason: 'leak' })
  await sealedCopies(own, used, before, MANY)

  // Of the compromised one nothing counts: nobody opens it any more.
  const count = MANY + 2
  await expect(openSealer(own, { kek })).rejects.toThrow(`${count} secrets sealed under ${before.kekIds[0]}`)
  const by = { at: at(0), actor: 'alice', within: 60_000 }
  const stopped = await reseal(own, { sealer: ring, ...by, within: 0 })
  expect([stopped.resealed, stopped.left]).toEqual([0, [{ kekId: before.kekIds[0], count }]])
  const [one, two] = await Promise.all([reseal(own, { sealer: ring, ...by }), reseal(own, { sealer: ring, ...by })])
  expect([one.resealed + two.resealed, one.changed.length + two.changed.length]).toEqual([count, MANY + 1])
  expect((await openSealer(own, { kek })).kekIds).toEqual([ring.kekIds[0]])

  const row = await keyOf(own, used.keyId)
  expect(row).toMatchObject({ revision: 2, event: 'keyturn.key.updated', publishedRevision: 0, state: 'active' })
  if (row.verifier.kind !== 'hmac-sha256') throw new Error(row.verifier.kind)
  expect([row.verifier.revision, row.verifier.kekId]).toEqual([2, ring.kekIds[0]])
  const { nonce, ciphertext } = row.verifier
  const sealed = { nonce: Buffer.from(nonce, 'base64'), ciphertext: Buffer.from(ciphertext, 'base64') }
  expect(createSealingKey(kek).open(sealed, verifierAad(used.keyId, 2))).toBe(token)
  const [, entry] = await listAudit(own, { subject: used.keyId, limit: 10 })
  expect(entry).toMatchObject({ action: 'key.updated', revision: 2, actor: 'alice' })
  expect((await keyOf(own, dead.keyId)).revision).toBe(2)
  expect(await gatewaysOpen(own)).toBe(true)

  // What is to be enrolled is found by the link that the client has, and by the one that it would be sent now.
  const publicKey = 'PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw='
  for (const code of [claimCode(before, pending.claimId), claimCode(ring, pending.claimId)]) {
    const enrolled = await redeemClaim(own, { code, publicKey, at: at(1), from: 'test', sealer: ring })
    expect(enrolled.outcome).toBe('enrolled')
  }
  await own.close()
})

test('what is sealed under a key that nobody has is counted, and not touched', async () => {
  const { claimId } = await makeCredential(db)
  const ring = createSealer(randomBytes(32), randomBytes(32))
  const { resealed, left } = await move(ring)
  expect(resealed).toBe(0)
  expect(left).toContainEqual({ kekId: old.kekIds[0], count: 1 })
  expect((await redeem(claimCode(old, claimId), old)).outcome).toBe('handed-out')
})

/** Open claims as there are thousands of them: of keys that are made without an audit entry. */
async function copies(sealer: Sealer, count: number): Promise<void> {
  const { credentialId } = await makeCredential(db, 'prod', sealer)
  await db.query(`delete from claims where key_id in (select key_id from keys where credential_id = $1)`, [credentialId])
  await db.tx(async (tx) => {
    await tx.query('set local session_replication_role = replica')
    for (let i = 0; i < count; i++) {
      const keyId = `copy${String(i).padStart(12, '0')}`
      const { kekId, nonce, ciphertext } = sealer.seal('a secret', keyId)
      await tx.query(
        `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
         values ($1, $2, $3, 'deactivated', 'retired', 'keyturn.key.introduced', jsonb_build_object('kind', 'bearer', 'sha256', $4::text), now(), now())`,
        [keyId, credentialId, i + 2, `${Buffer.from(keyId.padEnd(32)).toString('base64')}`],
      )
      await tx.query(
        `insert into claims (claim_id, key_id, code_sha256, kek_id, nonce, ciphertext, created_at, expires_at) values ($1, $1, $1, $2, $3, $4, now(), $5)`,
        [keyId, kekId, nonce, ciphertext, at(86_400_000)],
      )
    }
  })
}

/** Keys of this kind as there are thousands of them, made as above. */
async function sealedCopies(
  own: Database,
  { keyId, credentialId }: TestCredential,
  sealer: Sealer,
  count: number,
): Promise<void> {
  await own.tx(async (tx) => {
    await tx.query('set local session_replication_role = replica')
    for (let i = 0; i < count; i++) {
      const id = `copy${String(i).padStart(12, '0')}`
      const { kekId, nonce, ciphertext } = sealer.seal('a token', verifierAad(id, 1))
      const sealed = { kekId, nonce: nonce.toString('base64'), ciphertext: ciphertext.toString('base64'), revision: 1 }
      await tx.query(
        `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
         select $2, $3, $4, 'deactivated', 'retired', event, $5, not_before, created_at from keys where key_id = $1`,
        [keyId, id, credentialId, i + 2, JSON.stringify({ kind: 'hmac-sha256', ...sealed })],
      )
    }
  })
}
