import { createHash, randomBytes } from 'node:crypto'
import { CLAIM_REPEATABLE_MS, parseToken, type RolloverId, tokenSha256 } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import {
  claimCode,
  claimOfKey,
  destroyExpiredClaims,
  redeemClaim,
  redeemSuccessor,
  wipeRepeatableClaims,
} from '../../registry/claims.ts'
import type { Database } from '../../registry/database.ts'
import { compromiseKey, deactivateKey, reinstateKey, retireNewKey } from '../../registry/keys.ts'
import { readRecipient } from '../../registry/recipients.ts'
import { openRollover } from '../../registry/rollovers.ts'
import { enterStage } from '../../registry/rotations.ts'
import { createSealer } from '../../registry/sealing.ts'
import { decrypt, newRecipient } from '../support/recipients.ts'
import { sha256Of } from '../support/shown.ts'
import {
  at,
  DAY,
  introduce,
  keyOf,
  makeCredential,
  monitored,
  open,
  openTestDatabase,
  sealer,
  tokenOf,
  untilWaiting,
} from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase({ max: 20 })
})
afterAll(() => db.close())

const redeem = (claimId: string, ms = 0, from = '192.0.2.1') =>
  redeemClaim(db, { code: claimCode(sealer, claimId), at: at(ms), from, sealer })
const successorOf = (token: string, ms = 0) =>
  redeemSuccessor(db, { shown: { tokenSha256: tokenSha256(token) }, at: at(ms), from: '192.0.2.1', sealer })
const outcome = async (redeemed: Promise<{ outcome: string }>): Promise<string> => (await redeemed).outcome

async function secretOf(claimId: string): Promise<unknown[]> {
  const [row] = await db.query<object>('select kek_id, nonce, ciphertext from claims where claim_id = $1', [claimId])
  return Object.values(row ?? {}).filter((value) => value !== null)
}

describe('G10: a claim hands the secret out at most once', () => {
  test('G10: the token is that of the key, and the second try is told apart and written down', async () => {
    const { keyId, credentialId, claimId } = await makeCredential(db)
    const first = await redeem(claimId)
    if (first.outcome !== 'handed-out') throw new Error(first.outcome)
    expect(first).toMatchObject({ keyId, credentialId })
    expect(parseToken(first.token)).toEqual({ ok: true, parts: { brand: 'kt', environment: 'prod', keyId } })
    expect(sha256Of(await keyOf(db, keyId))).toBe(tokenSha256(first.token))
    expect(await redeem(claimId, 0, '203.0.113.9')).toEqual({
      outcome: 'used',
      credentialId,
      keyId,
      rotationRuns: false,
      usedAt: at(0),
      usedFrom: '192.0.2.1',
    })
    const entries = await listAudit(db, { subject: claimId, limit: 10 })
    expect(entries.map(({ action, detail }) => [action, detail['from']])).toEqual([
      ['claim.used', '192.0.2.1'],
      ['claim.second-try', '203.0.113.9'],
    ])
  })

  test('G10: of twenty who redeem at the same time, exactly one gets the token', async () => {
    const { claimId } = await makeCredential(db)
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => outcome(redeem(claimId))))
    expect(outcomes.filter((one) => one === 'handed-out')).toHaveLength(1)
    expect(outcomes.filter((one) => one === 'used')).toHaveLength(19)
  })

  test('G10: so it is when some show the claim and some the old key', async () => {
    const { claimId, newClaimId } = await monitored(db)
    const token = await tokenOf(db, claimId)
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, (_, i) => outcome(i % 2 === 0 ? redeem(newClaimId) : successorOf(token))),
    )
    expect(outcomes.sort()).toEqual(['handed-out', ...Array.from({ length: 19 }, () => 'used')])
  })

  test('G10: what a claim has handed out is wiped', async () => {
    const { claimId } = await makeCredential(db)
    expect(await secretOf(claimId)).toHaveLength(3)
    await redeem(claimId)
    expect(await secretOf(claimId)).toEqual([])
  })
})

describe('a claim with a recipient', () => {
  const encrypted = async (claimId: string, { jwk }: Pick<ReturnType<typeof newRecipient>, 'jwk'>, ms = 0) =>
    redeemClaim(db, {
      code: claimCode(sealer, claimId),
      at: at(ms),
      from: '192.0.2.1',
      sealer,
      recipient: await readRecipient(jwk),
    })
  const actions = async (claimId: string) => (await listAudit(db, { subject: claimId, limit: 30 })).map(({ action }) => action)
  const answerOf = async (claimId: string) =>
    (await db.query<{ jwe: string | null }>('select jwe from claims where claim_id = $1', [claimId]))[0]?.jwe

  test('G10: is answered with the token encrypted to it, and the same again for ten minutes', async () => {
    const { keyId, credentialId, claimId } = await makeCredential(db)
    const recipient = newRecipient()
    const first = await encrypted(claimId, recipient)
    if (first.outcome !== 'encrypted') throw new Error(first.outcome)
    expect(first).toMatchObject({ keyId, credentialId })
    expect(sha256Of(await keyOf(db, keyId))).toBe(tokenSha256(await decrypt(first.jwe, recipient)))
    expect(await secretOf(claimId)).toEqual([])
    expect(await encrypted(claimId, recipient, CLAIM_REPEATABLE_MS - 1)).toEqual(first)
    expect(await actions(claimId)).toEqual(['claim.used', 'claim.repeated'])
    const [used] = await listAudit(db, { subject: claimId, limit: 1 })
    expect(used?.detail).toEqual({
      keyId,
      from: '192.0.2.1',
      recipient: (await readRecipient(recipient.jwk)).thumbprint,
    })
  })

  test('G10: of twenty who name one recipient at the same time, all get one answer, and it is used once', async () => {
    const { claimId } = await makeCredential(db)
    const recipient = newRecipient()
    const answers = await Promise.all(Array.from({ length: 20 }, () => encrypted(claimId, recipient)))
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
    expect((await actions(claimId)).sort()).toEqual([...Array<string>(19).fill('claim.repeated'), 'claim.used'])
  })

  test('G10: is refused to another recipient, and to who names none, within the time as well', async () => {
    const { claimId } = await makeCredential(db)
    const recipient = newRecipient()
    const first = await encrypted(claimId, recipient)
    expect(await outcome(encrypted(claimId, newRecipient()))).toBe('used')
    expect(await outcome(redeem(claimId))).toBe('used')
    expect(await actions(claimId)).toEqual(['claim.used', 'claim.second-try', 'claim.second-try'])
    expect(await encrypted(claimId, recipient)).toEqual(first)
  })

  test('G10: is refused to whoever comes with one after it was handed out without', async () => {
    const { claimId } = await makeCredential(db)
    await redeem(claimId)
    expect(await outcome(encrypted(claimId, newRecipient()))).toBe('used')
  })

  test('G10: after ten minutes it is used, and the answer is gone: on the spot, or by the sweep', async () => {
    const [asked, swept] = [await makeCredential(db), await makeCredential(db)]
    const recipient = newRecipient()
    for (const { claimId } of [asked, swept]) await encrypted(claimId, recipient)
    await wipeRepeatableClaims(db, at(CLAIM_REPEATABLE_MS - 1))
    expect(await answerOf(asked.claimId)).not.toBeNull()
    expect(await outcome(encrypted(asked.claimId, recipient, CLAIM_REPEATABLE_MS))).toBe('used')
    expect(await answerOf(asked.claimId)).toBeNull()
    expect(await answerOf(swept.claimId)).not.toBeNull()
    await wipeRepeatableClaims(db, at(CLAIM_REPEATABLE_MS))
    expect(await answerOf(swept.claimId)).toBeNull()
    expect(await outcome(encrypted(swept.claimId, recipient))).toBe('used')
  })

  test('the old key may be shown instead, by the same recipient', async () => {
    const { claimId, newClaimId, newKeyId } = await monitored(db)
    const shown = {
      shown: { tokenSha256: tokenSha256(await tokenOf(db, claimId)) },
      at: at(0),
      from: '192.0.2.1',
      sealer,
    }
    const recipient = newRecipient()
    const first = await redeemSuccessor(db, { ...shown, recipient: await readRecipient(recipient.jwk) })
    expect(first).toMatchObject({ outcome: 'encrypted', keyId: newKeyId, sunsetAt: at(14 * DAY) })
    expect(await encrypted(newClaimId, recipient)).toEqual(first)
    expect(await redeemSuccessor(db, { ...shown, recipient: await readRecipient(newRecipient().jwk) })).toMatchObject({
      outcome: 'used',
    })
  })

  test('of a key that is rolled back, compromised or killed with others, the answer is wiped', async () => {
    const recipient = newRecipient()
    const rolledBack = await monitored(db)
    const [leaked, killed] = [await makeCredential(db), await makeCredential(db)]
    const claimIds = [rolledBack.newClaimId, leaked.claimId, killed.claimId]
    for (const claimId of claimIds) await encrypted(claimId, recipient)
    await reinstateKey(db, { ...rolledBack.by, keyId: rolledBack.keyId })
    await retireNewKey(db, rolledBack.by)
    await compromiseKey(db, { keyId: leaked.keyId, at: at(0), actor: 'test', reason: 'leak' })
    await openRollover(db, {
      rolloverId: `rol_${'1'.repeat(16)}` as RolloverId,
      selector: {},
      credentialId: killed.credentialId,
      reason: 'test',
      actor: 'test',
      at: at(0),
    })
    for (const claimId of claimIds) {
      expect(await answerOf(claimId)).toBeNull()
      expect(await outcome(encrypted(claimId, recipient))).toBe('used')
    }
  })

  test('enrols nothing: a key that the client makes is no secret', async () => {
    const { claimId } = await makeCredential(db, 'prod', sealer, { kind: 'ed25519' })
    expect(await outcome(encrypted(claimId, newRecipient()))).toBe('no-recipient')
  })
})

describe('claims end', () => {
  test('an expired claim hands nothing out and is wiped on the spot', async () => {
    const { claimId, credentialId, keyId } = await makeCredential(db)
    expect(await redeem(claimId, DAY)).toEqual({ outcome: 'expired', credentialId })
    expect(await secretOf(claimId)).toEqual([])
    expect(await claimOfKey(db, keyId)).toMatchObject({ state: 'expired' })
    expect(await outcome(redeem(claimId, 0))).toBe('expired')
  })

  test('a claim is good until the last millisecond', async () => {
    const { claimId } = await makeCredential(db)
    expect(await outcome(redeem(claimId, DAY - 1))).toBe('handed-out')
  })

  test('G5: what nobody claimed in time is wiped, by as many sweepers as there are, and written down once', async () => {
    await db.query(`update claims set expires_at = '2099-01-01' where state = 'open'`)
    const made = await Promise.all(Array.from({ length: 5 }, () => makeCredential(db)))
    expect(await destroyExpiredClaims(db, at(DAY - 1))).toBe(0)
    const swept = await Promise.all(Array.from({ length: 4 }, () => destroyExpiredClaims(db, at(DAY))))
    expect(swept.reduce((a, b) => a + b, 0)).toBe(5)
    for (const { claimId } of made) {
      expect(await secretOf(claimId)).toEqual([])
      expect(await listAudit(db, { subject: claimId, limit: 10 })).toHaveLength(1)
    }
  })

  test('a claim of a rotation that is open outlives its time: the client is late, and the rotation waits for it', async () => {
    const held = await monitored(db)
    const late = 100 * DAY
    await enterStage(db, { ...held.by, stage: 'held', heldFor: 'deadline' })
    await destroyExpiredClaims(db, at(late))
    expect(await secretOf(held.newClaimId)).toHaveLength(3)
    expect(await outcome(redeem(held.newClaimId, late))).toBe('handed-out')

    const ended = await monitored(db)
    await enterStage(db, { ...ended.by, stage: 'completed' })
    expect(await outcome(redeem(ended.newClaimId, late))).toBe('expired')
    const swept = await monitored(db)
    await enterStage(db, { ...swept.by, stage: 'completed' })
    await destroyExpiredClaims(db, at(late))
    expect(await secretOf(swept.newClaimId)).toEqual([])
  })

  test('the claim of a key that was rolled back or compromised hands nothing out', async () => {
    const rolledBack = await monitored(db)
    await reinstateKey(db, { ...rolledBack.by, keyId: rolledBack.keyId })
    await retireNewKey(db, rolledBack.by)
    const leaked = await makeCredential(db)
    await compromiseKey(db, { keyId: leaked.keyId, at: at(0), actor: 'test', reason: 'leak' })
    for (const claimId of [rolledBack.newClaimId, leaked.claimId]) {
      expect(await secretOf(claimId)).toEqual([])
      expect(await outcome(redeem(claimId))).toBe('expired')
    }
  })

  test('a code that belongs to no claim is unknown', async () => {
    expect(await redeemClaim(db, { code: 'x'.repeat(43), at: at(0), from: 'x', sealer })).toEqual({ outcome: 'unknown' })
  })
})

describe('the successor, for who shows the old key', () => {
  test('is handed out once, with the sunset of the old one', async () => {
    const { claimId, newKeyId, rotationId, credentialId } = await monitored(db)
    const token = await tokenOf(db, claimId)
    expect(await successorOf(token)).toMatchObject({ outcome: 'handed-out', keyId: newKeyId, sunsetAt: at(14 * DAY) })
    expect(await successorOf(token)).toMatchObject({ outcome: 'used', credentialId, rotationId, rotationRuns: true })
  })

  test('is refused where the policy says so, and the claim stays open', async () => {
    const { claimId, newKeyId } = await monitored(db, { successorByOldKey: false })
    expect(await outcome(successorOf(await tokenOf(db, claimId)))).toBe('refused')
    expect(await claimOfKey(db, newKeyId)).toMatchObject({ state: 'open' })
  })

  test('is refused to a compromised key and to one that was deactivated', async () => {
    const leaked = await monitored(db)
    const leakedToken = await tokenOf(db, leaked.claimId)
    await compromiseKey(db, { ...leaked.by, keyId: leaked.keyId })
    expect(await outcome(successorOf(leakedToken))).toBe('refused')
    const gone = await monitored(db)
    const goneToken = await tokenOf(db, gone.claimId)
    await deactivateKey(db, { ...gone.by, keyId: gone.keyId, unless: 'never' })
    expect(await outcome(successorOf(goneToken))).toBe('refused')
    for (const { newKeyId } of [leaked, gone]) expect(await claimOfKey(db, newKeyId)).toMatchObject({ state: 'open' })
  })

  test('is refused to a key that is being compromised: the request waits for that', async () => {
    const { claimId, keyId, newKeyId } = await monitored(db)
    const token = await tokenOf(db, claimId)
    let shown: Promise<string> | undefined
    await db.tx(async (tx) => {
      await tx.query(`insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash)
        values (0, now(), 'sql', 'key.compromised', '${keyId}', 3, '{}', '', '')`)
      await tx.query(`update keys set state = 'compromised', standing = 'retired', revision = 3 where key_id = $1`, [keyId])
      shown = outcome(successorOf(token))
      await untilWaiting(db, 1)
    })
    expect(await shown).toBe('refused')
    expect(await claimOfKey(db, newKeyId)).toMatchObject({ state: 'open' })
  })

  test('is not there before the client may hear of it, nor without a rotation', async () => {
    const credential = await makeCredential(db)
    const token = await tokenOf(db, credential.claimId)
    expect(await outcome(successorOf(token))).toBe('no-successor')
    await introduce(db, await open(db, credential))
    expect(await outcome(successorOf(token))).toBe('no-successor')
    expect(await outcome(successorOf('kt_prod_nobody'))).toBe('unknown')
  })

  test('has none itself: the new key is no ticket for its own claim', async () => {
    const { newClaimId } = await monitored(db)
    expect(await outcome(successorOf(await tokenOf(db, newClaimId)))).toBe('no-successor')
  })
})

describe('G5: no plaintext', () => {
  test('G5: neither token, secret nor claim code is in any column of any table', async () => {
    const { claimId, newClaimId } = await monitored(db)
    const code = claimCode(sealer, newClaimId)
    const token = await tokenOf(db, claimId)
    await redeem(claimId)
    const secret = token.split('_')[3]?.slice(0, 43) ?? 'none'
    const tables = await db.query<{ name: string }>(
      `select table_name as name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'`,
    )
    expect(tables.length).toBeGreaterThan(10)
    for (const { name } of tables) {
      const [found] = await db.query<{ n: number; all: number }>(
        `select count(*) filter (where position($1 in t::text) > 0 or position($2 in t::text) > 0
           or position($3 in t::text) > 0 or position($4 in t::text) > 0) as n, count(*) as all from ${name} t`,
        [secret, code, Buffer.from(secret).toString('hex'), claimIdHash(code, 'base64')],
      )
      expect([name, found?.n]).toEqual([name, 0])
    }
    const [stored] = await db.query<{ n: number }>('select count(*) as n from claims where code_sha256 = $1', [claimIdHash(code)])
    expect(stored?.n).toBe(1)
  })

  test('G5: a sealed secret opens with the key-encryption key and for its own key alone', async () => {
    const { claimId } = await makeCredential(db)
    const other = createSealer(randomBytes(32))
    const code = claimCode(sealer, claimId)
    await expect(redeemClaim(db, { code, at: at(0), from: 'x', sealer: other })).rejects.toThrow('key-encryption key')
    expect(await outcome(redeem(claimId))).toBe('handed-out')

    const [mine, theirs] = [await makeCredential(db), await makeCredential(db)]
    await db.query(
      `update claims a set nonce = b.nonce, ciphertext = b.ciphertext from claims b where a.claim_id = $1 and b.claim_id = $2`,
      [mine.claimId, theirs.claimId],
    )
    await expect(redeem(mine.claimId)).rejects.toThrow()
    expect(await claimOfKey(db, mine.keyId)).toMatchObject({ state: 'open' })
  })
})

const claimIdHash = (code: string, encoding: 'hex' | 'base64' = 'hex'): string =>
  createHash('sha256').update(code).digest(encoding)
