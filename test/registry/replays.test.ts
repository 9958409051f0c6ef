/** Counts of replays, however the reports of them arrive. */
import type { KeyId, UsageReport } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { countReplays, tellReplays, type UntoldReplays, untoldReplays } from '../../registry/replays.ts'
import { at, makeCredential, openTestDatabase, usageOf } from './world.ts'

const MINUTE = 60_000

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const count = (...reports: UsageReport[]): Promise<void> => db.tx((tx) => countReplays(tx, reports))
/** As gateways bring it: with the sources of each outcome. */
const replayed = (keyId: KeyId, ms: number, sources: readonly { address: string; count: number }[]): UsageReport => {
  const total = sources.reduce((sum, each) => sum + each.count, 0)
  const { outcomes, ...report } = usageOf(keyId, 'replayed', { last: at(ms), count: total })
  return {
    ...report,
    outcomes: outcomes.map((each) => ({
      ...each,
      sources: sources.map((source) => ({ userAgent: 'bot', lastAt: at(ms).toISOString(), ...source })),
    })),
  }
}
async function told(keyId: KeyId, ms: number): Promise<UntoldReplays | undefined> {
  let said: UntoldReplays | undefined
  await tellReplays(db, { keyId, now: at(ms) }, async (replays) => {
    said = replays
  })
  return said
}

test('a report that comes late moves nothing back; what has been told is told no more, nor where it came from', async () => {
  const { keyId } = await makeCredential(db)
  await count(replayed(keyId, 5 * MINUTE, [{ address: '192.0.2.1', count: 3 }]))
  await count(replayed(keyId, 2 * MINUTE, [{ address: '192.0.2.2', count: 1 }]))
  expect(await untoldReplays(db, at(6 * MINUTE))).toEqual([keyId])
  expect(await told(keyId, 6 * MINUTE)).toMatchObject({
    replayed: 4,
    lastAt: at(5 * MINUTE),
    sources: [
      { address: '192.0.2.1', count: 3 },
      { address: '192.0.2.2', count: 1 },
    ],
  })
  await count(replayed(keyId, 20 * MINUTE, [{ address: '192.0.2.3', count: 2 }]))
  expect(await untoldReplays(db, at(6 * MINUTE + 15 * MINUTE - 1))).toEqual([])
  expect(await told(keyId, 6 * MINUTE + 15 * MINUTE - 1)).toBeUndefined()
  const again = await told(keyId, 6 * MINUTE + 15 * MINUTE)
  expect(again).toMatchObject({ replayed: 2, since: at(6 * MINUTE), lastAt: at(20 * MINUTE) })
  expect(again?.sources.map(({ address }) => address)).toEqual(['192.0.2.3'])
})

test('of many sources the busiest twenty are kept', async () => {
  const { keyId } = await makeCredential(db)
  for (const part of [0, 1, 2]) {
    const sources = Array.from({ length: 20 }, (_, i) => ({ address: `192.0.2.${20 * part + i}`, count: 1 + 20 * part + i }))
    await count(replayed(keyId, MINUTE, sources))
  }
  const { sources = [] } = (await told(keyId, MINUTE)) ?? {}
  expect(sources).toHaveLength(20)
  expect([sources[0], sources.at(-1)]).toMatchObject([
    { address: '192.0.2.59', count: 60 },
    { address: '192.0.2.40', count: 41 },
  ])
})
