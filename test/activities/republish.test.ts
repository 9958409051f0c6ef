import { afterEach, expect, test, vi } from 'vitest'
import { createKafka } from '../../activities/kafka.ts'
import { republishAll } from '../../activities/republish.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { makeCredential } from '../registry/world.ts'
import { eventually, type House } from '../support/house.ts'
import { linesOf, registryLines } from '../support/key-lines.ts'
import { loseTopic } from '../support/lost-topic.ts'
import { openHouse } from '../support/open-house.ts'
import { newPublicKey } from '../support/shown.ts'
import { readTopic } from '../support/topics.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 5 * 60_000 })

let house: House
const open = async (options: Partial<Parameters<typeof openHouse>[0]> = {}): Promise<void> => {
  house = await openHouse({ time: 'real', gateways: 1, worker: false, collector: false, ...options })
}
afterEach(() => house.close())

const republish = (onProgress?: (published: number) => void): Promise<number> =>
  republishAll(
    {
      db: house.db,
      kafka: createKafka(house.config.kafkaBrokers, 'test', house.log),
      topics: house.config.topics,
      log: house.log,
    },
    onProgress,
  )

const compromise = (keyId: Parameters<typeof compromiseKey>[1]['keyId']) =>
  compromiseKey(house.db, { keyId, at: new Date(), actor: 'test', reason: 'leak' })

async function allEqualTheRegistry(): Promise<void> {
  const expected = await registryLines(house.db)
  for (const gateway of house.gateways) {
    await eventually(
      () => JSON.stringify(linesOf(gateway.cache)) === JSON.stringify(expected),
      () =>
        `the keys of a gateway; it has ${linesOf(gateway.cache).filter((each) => !expected.includes(each)).length} wrong ones`,
      PATIENCE_MS,
    )
  }
}

test('G4: rebuilds a keys topic that was lost: a gateway that runs and one that starts from nothing equal the registry', async () => {
  await open()
  const kinds = [{}, { kind: 'hmac-sha256' }, { kind: 'ed25519', publicKey: newPublicKey() }] as const
  const early = await Promise.all(Array.from({ length: 9 }, (_, i) => house.credential([], 'prod', [], kinds[i] ?? {})))
  // The topic made anew is longer than what had been read of the old one, so that its length alone shows nothing.
  await loseTopic(house.config.topics, house.config.topics.keys, async () => {
    for (const { keyId } of early) await compromise(keyId)
    for (let i = 0; i < 40; i++) await makeCredential(house.db)
  })
  expect(await republish()).toBe(49)
  await allEqualTheRegistry()
  expect(early.map(({ token }) => house.verdicts(token))).toEqual(early.map(() => [false]))
  await house.addGateway('gw-new')
  await allEqualTheRegistry()
})

test('publishes every key once, and those that had never been published count as published then', async () => {
  await open({ gateways: 0 })
  const keys = await Promise.all(Array.from({ length: 5 }, () => house.credential()))
  await compromise((keys[0] ?? expect.fail()).keyId)
  const before = (await readTopic(house.config.topics.keys)).length
  const progress: number[] = []
  expect(await republish((sofar) => progress.push(sofar))).toBe(5)
  expect(progress.at(-1)).toBe(5)
  const again = (await readTopic(house.config.topics.keys)).sort((a, b) => a.offset - b.offset).length - before
  expect(again).toBe(5)
  expect(await house.db.query('select 1 from keys where published_revision < revision')).toEqual([])
})

test('G4: beside running rotations and changes: revisions go back neither in the log nor at any gateway', async () => {
  await open({ gateways: 2, worker: true, collector: true })
  const seen = new Map<string, number>()
  const back: string[] = []
  const watching = setInterval(() => {
    for (const [i, { cache }] of house.gateways.entries()) {
      for (const { keyId, revision } of cache.entries()) {
        const name = `${keyId} at ${i}`
        if (revision < (seen.get(name) ?? 0)) back.push(name)
        seen.set(name, revision)
      }
    }
  }, 2)
  let rotating = true
  const rotations = Promise.all(
    Array.from({ length: 4 }, async () => {
      const { credentialId } = await house.credential()
      const rotation = await house.rotate(credentialId, { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0 })
      await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
      await house.use(await house.claimNewKey(rotation.rotationId))
      await house.reached(rotation.rotationId, 'completed', PATIENCE_MS)
    }),
  ).finally(() => {
    rotating = false
  })
  let times = 0
  for (; rotating || times < 3; times++) await republish()
  await rotations
  clearInterval(watching)
  await allEqualTheRegistry()
  expect(back).toEqual([])

  const highest = new Map<string, number>()
  for (const { key, value } of (await readTopic(house.config.topics.keys)).sort((a, b) => a.offset - b.offset)) {
    const { revision } = (JSON.parse(value ?? '{}') as { data: { revision: number } }).data
    expect(revision).toBeGreaterThanOrEqual(highest.get(key) ?? 0)
    highest.set(key, revision)
  }
  expect(highest.size).toBe(8)
})

test('G3: a rotation that is held for a receipt when the topic is lost goes on after it', async () => {
  await open({ worker: true })
  // Offsets of the old log are far above those that the new one will reach.
  for (let i = 0; i < 30; i++) await house.propagation.publish((await house.credential()).keyId)
  const { credentialId } = await house.credential()
  await house.announceSilentGateway('gw-silent')
  const rotation = await house.rotate(credentialId, { receiptWaitMs: 500 })
  await eventually(async () => (await house.rotation(rotation.rotationId)).stage === 'held', 'held', PATIENCE_MS)
  await loseTopic(house.config.topics, house.config.topics.keys)
  await house.addGateway('gw-silent')
  const { receipts } = await house.reached(rotation.rotationId, 'monitoring', 2 * PATIENCE_MS)
  expect(receipts.find(({ event }) => event === 'keyturn.key.introduced')).toMatchObject({ unconfirmed: [] })
})
