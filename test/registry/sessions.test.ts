/** Which keys may be traded for a session, and what that counts for. */
import { tokenSha256 } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { appendAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'
import { keyForSession } from '../../registry/sessions.ts'
import { at, HOUR, makeCredential, openTestDatabase, tokenOf } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

test('a key is traded from its beginning until its end, and not a moment before or after', async () => {
  const { keyId, claimId } = await makeCredential(db)
  const sha256 = tokenSha256(await tokenOf(db, claimId))
  await db.tx(async (tx) => {
    await appendAudit(tx, { at: at(0), actor: 'test', action: 'key.updated', subject: keyId, revision: 2, detail: {} })
    await tx.query('update keys set not_before = $2, expires_at = $3, revision = 2 where key_id = $1', [
      keyId,
      at(HOUR),
      at(2 * HOUR),
    ])
  })
  const traded = async (ms: number): Promise<string | undefined> =>
    (await keyForSession(db, { tokenSha256: sha256 }, at(ms)))?.keyId
  expect(await Promise.all([HOUR - 1, HOUR, 2 * HOUR - 1, 2 * HOUR].map(traded))).toEqual([undefined, keyId, keyId, undefined])
})

test('G2: its use is the latest that is known, in whatever order two processes note it', async () => {
  const { keyId, claimId } = await makeCredential(db)
  const sha256 = tokenSha256(await tokenOf(db, claimId))
  for (const ms of [2 * HOUR, HOUR, 3 * HOUR, 2 * HOUR]) await keyForSession(db, { tokenSha256: sha256 }, at(ms))
  const usage = await db.query(
    'select accepted, first_accepted_at as first, last_accepted_at as last from key_usage where key_id = $1',
    [keyId],
  )
  expect(usage).toEqual([{ accepted: 4, first: at(HOUR), last: at(3 * HOUR) }])
})
