import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { publishKey } from '../../registry/publishing.ts'
import { applyUsage, lastUses, usageOffsets } from '../../registry/usage.ts'
import { at, makeCredential, openTestDatabase, type TestCredential, usageOf } from './world.ts'

let db: Database
let credential: TestCredential
let partition = 100
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

interface Usage {
  readonly accepted: number
  readonly refused: number
  readonly first_accepted_at: Date | null
  readonly last_accepted_at: Date | null
}
const usage = async (keyId: string): Promise<Usage | undefined> =>
  (
    await db.query<Usage>('select accepted, refused, first_accepted_at, last_accepted_at from key_usage where key_id = $1', [
      keyId,
    ])
  )[0]

const accepted = (ms: number, count = 1) => usageOf(credential.keyId, 'accepted', { last: at(ms), count })
const begin = async (): Promise<void> => {
  credential = await makeCredential(db)
  partition += 1
}

test('a batch that is delivered again is not counted again, nor is the part of it that was counted before', async () => {
  await begin()
  const [a, b, c] = [accepted(1), accepted(2, 10), accepted(3, 100)]
  const first = [
    { offset: '5', report: a },
    { offset: '7', report: b },
  ]
  await applyUsage(db, { partition, nextOffset: '8', reports: first })
  await applyUsage(db, { partition, nextOffset: '8', reports: first })
  expect((await usage(credential.keyId))?.accepted).toBe(11)
  await applyUsage(db, { partition, nextOffset: '9', reports: [...first, { offset: '8', report: c }] })
  expect((await usage(credential.keyId))?.accepted).toBe(111)
  expect((await usageOffsets(db)).get(partition)).toBe('9')
})

test('an older batch that comes late neither counts nor moves the offset back', async () => {
  await begin()
  await applyUsage(db, { partition, nextOffset: '20', reports: [{ offset: '19', report: accepted(1) }] })
  await applyUsage(db, { partition, nextOffset: '10', reports: [{ offset: '9', report: accepted(1) }] })
  expect((await usage(credential.keyId))?.accepted).toBe(1)
  expect((await usageOffsets(db)).get(partition)).toBe('20')
})

test('collectors that work on the same batch at the same time count it once', async () => {
  await begin()
  await applyUsage(db, { partition, nextOffset: '1', reports: [] })
  const batch = { partition, nextOffset: '3', reports: [1, 2].map((n) => ({ offset: String(n), report: accepted(n) })) }
  await Promise.all(Array.from({ length: 8 }, () => applyUsage(db, batch)))
  expect((await usage(credential.keyId))?.accepted).toBe(2)
})

test('a batch that fails counts nothing and leaves the offset where it was', async () => {
  await begin()
  const impossible = usageOf(credential.keyId, 'accepted', { last: at(1), count: 0.5 })
  await expect(applyUsage(db, { partition, nextOffset: '2', reports: [{ offset: '1', report: impossible }] })).rejects.toThrow()
  expect(await usage(credential.keyId)).toBeUndefined()
  expect((await usageOffsets(db)).has(partition)).toBe(false)
})

test('offsets beyond 2^53 are told apart', async () => {
  await begin()
  const big = 2n ** 60n
  await applyUsage(db, { partition, nextOffset: String(big + 1n), reports: [{ offset: String(big), report: accepted(1) }] })
  await applyUsage(db, { partition, nextOffset: String(big + 2n), reports: [{ offset: String(big + 1n), report: accepted(1) }] })
  expect((await usage(credential.keyId))?.accepted).toBe(2)
  expect((await usageOffsets(db)).get(partition)).toBe(String(big + 2n))
})

test('a partition that was lost and made anew is counted from its beginning', async () => {
  await begin()
  await applyUsage(db, { partition, nextOffset: '1000', reports: [] })
  const first = { partition, nextOffset: '1', reports: [{ offset: '0', report: accepted(1) }] }
  expect(await applyUsage(db, first)).toBe('1000')
  expect(await usage(credential.keyId)).toBeUndefined()
  expect(await applyUsage(db, { ...first, notSince: '1000' })).toBe('1')
  // Another collector that had come to the same conclusion.
  expect(await applyUsage(db, { ...first, notSince: '1000' })).toBe('1')
  expect((await usage(credential.keyId))?.accepted).toBe(1)
  expect((await usageOffsets(db)).get(partition)).toBe('1')
})

test('a report that a gateway sent again is counted once; of its times nothing is lost', async () => {
  await begin()
  const numbered = (serial: number, ms: number, incarnation = 'a') => ({ ...accepted(ms, 10), incarnation, serial })
  let offset = 0
  const arrive = (...reports: ReturnType<typeof accepted>[]) =>
    applyUsage(db, {
      partition,
      nextOffset: String(offset + reports.length),
      reports: reports.map((report) => ({ offset: String(offset++), report })),
    })
  await arrive(numbered(1, 10), numbered(2, 20), numbered(2, 20))
  await arrive(numbered(1, 10), numbered(2, 20), numbered(5, 30))
  expect((await usage(credential.keyId))?.accepted).toBe(30)
  // Of another gateway, of another incarnation, of one that does not number its reports.
  await arrive({ ...numbered(1, 40), gatewayId: 'gw-2' as never }, numbered(1, 50, 'b'), accepted(60, 10), accepted(60, 10))
  expect((await usage(credential.keyId))?.accepted).toBe(70)
  await arrive(numbered(3, 99))
  expect(await usage(credential.keyId)).toMatchObject({ accepted: 70, last_accepted_at: at(99) })
})

test('first and last acceptance are the earliest and latest ever reported, in whatever order; refusals leave them alone', async () => {
  await begin()
  const reports = [
    usageOf(credential.keyId, 'accepted', { first: at(50), last: at(60) }),
    usageOf(credential.keyId, 'accepted', { first: at(10), last: at(20) }),
    usageOf(credential.keyId, 'refused', { first: at(1), last: at(99), count: 4 }),
  ]
  await applyUsage(db, { partition, nextOffset: '2', reports: reports.slice(0, 1).map((report) => ({ offset: '1', report })) })
  await applyUsage(db, {
    partition,
    nextOffset: '4',
    reports: reports.slice(1).map((report, i) => ({ offset: String(2 + i), report })),
  })
  expect(await usage(credential.keyId)).toEqual({
    accepted: 2,
    refused: 4,
    first_accepted_at: at(10),
    last_accepted_at: at(60),
  })
  expect(await lastUses(db, credential.credentialId)).toEqual(new Map([[credential.keyId, at(60)]]))
})

test('so they are when all of it comes at once, and so is when a source was seen last', async () => {
  await begin()
  const seen = (ms: number) => [{ address: '192.0.2.1', userAgent: 'x', count: 1, lastAt: at(ms).toISOString() }]
  const times = [50, 10, 30]
  const reports = times.map((ms) => usageOf(credential.keyId, 'accepted', { first: at(ms), last: at(ms + 10) }, seen(ms)))
  await applyUsage(db, { partition, nextOffset: '3', reports: reports.map((report, i) => ({ offset: String(i), report })) })
  expect(await usage(credential.keyId)).toMatchObject({ accepted: 3, first_accepted_at: at(10), last_accepted_at: at(60) })
  const late = usageOf(credential.keyId, 'accepted', { last: at(40) }, seen(40))
  await applyUsage(db, { partition, nextOffset: '4', reports: [{ offset: '3', report: late }] })
  const sources = await db.query('select count, last_at as last from key_sources where key_id = $1', [credential.keyId])
  expect(sources).toEqual([{ count: 4, last: at(50) }])
})

test('usage of a key that nobody knows is passed over, and does not hold up the rest', async () => {
  await begin()
  const unknown = '0000000000000000' as TestCredential['keyId']
  const source = { address: 'a', userAgent: 'b', count: 1, lastAt: at(1).toISOString() }
  const reports = [usageOf(unknown, 'accepted', { last: at(1) }, [source]), accepted(1)]
  await applyUsage(db, { partition, nextOffset: '2', reports: reports.map((report, i) => ({ offset: String(i), report })) })
  expect(await usage(unknown)).toBeUndefined()
  expect((await usage(credential.keyId))?.accepted).toBe(1)
})

test('of the sources of a key, the hundred latest are kept, with what they have summed up to', async () => {
  await begin()
  const source = (n: number, ms: number) => ({ address: `192.0.2.${n}`, userAgent: 'x', count: 1, lastAt: at(ms).toISOString() })
  for (let n = 0; n < 120; n++) {
    const report = usageOf(credential.keyId, 'accepted', { last: at(n) }, [source(n, n), source(255, n)])
    await applyUsage(db, { partition, nextOffset: String(n + 1), reports: [{ offset: String(n), report }] })
  }
  const kept = await db.query<{ address: string; count: number }>(
    'select address, count from key_sources where key_id = $1 order by last_at desc, address desc',
    [credential.keyId],
  )
  expect(kept).toHaveLength(100)
  expect(kept.map(({ address }) => address).sort()).toEqual(
    ['192.0.2.255', ...Array.from({ length: 99 }, (_, i) => `192.0.2.${119 - i}`)].sort(),
  )
  expect(kept.find(({ address }) => address === '192.0.2.255')?.count).toBe(120)
})

test('what fits the schema and not the database does not stop the counting', async () => {
  await begin()
  const source = { address: 'a\0b', userAgent: '\0', count: Number.MAX_SAFE_INTEGER, lastAt: '0000-01-01T00:00:00Z' }
  const report = {
    ...usageOf(credential.keyId, 'accepted', { last: at(1), count: 1e300 }, [source]),
    outcomes: [{ outcome: 'accepted' as const, count: 1e300, firstAt: '0000-01-01T00:00:00Z', lastAt: at(1).toISOString() }],
  }
  await applyUsage(db, { partition, nextOffset: '1', reports: [{ offset: '0', report }] })
  await applyUsage(db, { partition, nextOffset: '2', reports: [{ offset: '1', report: accepted(2) }] })
  expect((await usage(credential.keyId))?.last_accepted_at).toEqual(at(2))
  const half = (userAgent: string) => ({ address: 'c', userAgent, count: 1, lastAt: at(3).toISOString() })
  const halves = { ...accepted(3), sources: [half('x\ud800'), half('x\udc00')] }
  await applyUsage(db, { partition, nextOffset: '3', reports: [{ offset: '2', report: halves }] })
  const kept = await db.query(`select user_agent, count from key_sources where key_id = $1 and address = 'c'`, [credential.keyId])
  expect(kept).toEqual([{ user_agent: 'x\ufffd', count: 2 }])
})

test('usage is counted while a key is being published', async () => {
  await begin()
  const source = { address: 'a', userAgent: 'b', count: 1, lastAt: at(1).toISOString() }
  const report = usageOf(credential.keyId, 'accepted', { last: at(1) }, [source])
  await publishKey(db, credential.keyId, () => applyUsage(db, { partition, nextOffset: '1', reports: [{ offset: '0', report }] }))
  expect((await usage(credential.keyId))?.accepted).toBe(1)
})
