import { createHash, randomBytes } from 'node:crypto'
import { parseToken, tokenSha256 } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { claimCode, claimOfKey, destroyExpiredClaims, redeemClaim, redeemSuccessor } from '../../registry/claims.ts'
import type { Database } from '../../registry/database.ts'
import { compromiseKey, deactivateKey, reinstateKey, retireNewKey } from '../../registry/keys.ts'
import { enterStage } from '../../registry/rotations.ts'
import { createSealer } from '../../registry/sealing.ts'
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
  redeemSuccessor(db, { tokenSha256: tokenSha256(token), at: at(ms), from: '192.0.2.1', sealer })
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
    expect(await redeem(claimId, 0, '203.0.113.9')).toEqual({ outcome: 'used', credentialId })
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
    expect(await successorOf(token)).toEqual({ outcome: 'used', credentialId, rotationId })
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
