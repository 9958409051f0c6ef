import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { answerFallback, confirmedOverFallback } from '../../registry/fallback.ts'
import { compromiseKey, deactivateKey, reinstateKey } from '../../registry/keys.ts'
import { publishKey } from '../../registry/publishing.ts'
import { at, makeCredential, monitored, openTestDatabase } from './world.ts'

let db: Database
let other: Database
beforeAll(async () => {
  other = await openTestDatabase()
})
beforeEach(async () => {
  db = await openTestDatabase()
  return () => db.close()
})
afterAll(() => other.close())

const LONG_AGO = new Date('2020-01-01T00:00:00Z')
const ask = (input: { after?: string; since?: Date; limit?: number } = {}, registry = db) =>
  answerFallback(registry, { gatewayId: 'gw-1', since: LONG_AGO, at: new Date(), limit: 100, ...input })
const idsOf = async (page: ReturnType<typeof ask>): Promise<KeyId[]> => (await page).keys.map(({ keyId }) => keyId)
const kill = (keyId: KeyId, registry = db) => compromiseKey(registry, { keyId, at: at(0), actor: 'test', reason: 'leak' })
async function killed(registry = db): Promise<KeyId> {
  const { keyId } = await makeCredential(registry)
  await kill(keyId, registry)
  return keyId
}

test('tells of each key that has ended once, in the order of the log, page by page; and of none that is accepted', async () => {
  await makeCredential(db)
  const ids = [await killed(), await killed(), await killed(), await killed(), await killed()]
  const seen: KeyId[] = []
  let after: string | undefined
  for (let more = true; more; ) {
    const page = await ask({ limit: 2, ...(after === undefined ? {} : { after }) })
    seen.push(...page.keys.map(({ keyId }) => keyId))
    ;({ next: after, more } = page)
  }
  expect(seen).toEqual(ids)
  expect(await idsOf(ask({ after: after ?? '' }))).toEqual([])
  const later = await killed()
  expect(await idsOf(ask({ after: after ?? '' }))).toEqual([later])
})

test('a key that was reinstated is not told of, and one that ends again is', async () => {
  const { keyId, by } = await monitored(db)
  await deactivateKey(db, { ...by, keyId, unless: 'never' })
  const { next: after } = await ask()
  expect(await idsOf(ask())).toEqual([keyId])
  await reinstateKey(db, { ...by, keyId })
  expect(await idsOf(ask())).toEqual([])
  await kill(keyId)
  expect(await idsOf(ask({ after }))).toEqual([keyId])
})

test('without a place it begins with what Kafka did not have at the time that is named, published since or not at all', async () => {
  const [early, late, never] = [await killed(), await killed(), await killed()]
  await publishKey(db, early, async () => undefined)
  await db.query(`update keys set published_at = now() - interval '1 hour' where key_id = $1`, [early])
  await publishKey(db, late, async () => undefined)
  const since = new Date(Date.now() - 10 * 60_000)
  expect(await idsOf(ask({ since }))).toEqual([late, never])
  await publishKey(db, never, async () => undefined)
  // A clock may be five minutes ahead of ours.
  expect(await idsOf(ask({ since: new Date(Date.now() + 4 * 60_000) }))).toEqual([late, never])
  expect(await idsOf(ask({ since: new Date(Date.now() + 6 * 60_000) }))).toEqual([])
})

test('a place in another history of the registry counts as none: nothing is passed over, and nothing is confirmed', async () => {
  const foreign = await Promise.all([killed(other), killed(other), killed(other)])
  const { next: elsewhere } = await ask({}, other)
  expect(foreign.length).toBe(3)
  const id = await killed()
  for (let i = 0; i < 12; i++) await makeCredential(db)
  for (const after of [elsewhere, '999999.0000000000000000', '0.1111111111111111', 'nonsense', ''])
    expect([after, await idsOf(ask({ after }))]).toEqual([after, [id]])
  expect(await confirmedOverFallback(db, { keyId: id, revision: 2, since: at(0) })).toEqual([])
})

test('what a gateway has applied is what it asks after: no more, and only of keys that have ended', async () => {
  const [first, second] = [await killed(), await killed()]
  const confirmed = async (keyId: KeyId, revision = 2) =>
    (await confirmedOverFallback(db, { keyId, revision, since: at(0) })).map(({ gatewayId }) => gatewayId)
  const { next: after } = await ask({ limit: 1 })
  expect(await confirmed(first)).toEqual([])
  await ask({ after })
  expect([await confirmed(first), await confirmed(second)]).toEqual([['gw-1'], []])
  const { next: end } = await ask({ after })
  await ask({ after: end })
  expect([await confirmed(second), await confirmed(second, 3)]).toEqual([['gw-1'], []])
  const { keyId: alive } = await makeCredential(db)
  await ask({ after: (await ask({ after: end })).next })
  expect(await confirmed(alive, 1)).toEqual([])
})
