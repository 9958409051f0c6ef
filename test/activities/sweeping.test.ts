import { type RolloverId, randomBase62 } from '@keyturn/contract'
import pino from 'pino'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createKafka } from '../../activities/kafka.ts'
import { createPropagation, type Propagation } from '../../activities/propagation.ts'
import { startSweeping } from '../../activities/sweeping.ts'
import type { Database } from '../../registry/database.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { openRollover } from '../../registry/rollovers.ts'
import { at, keyOf, makeCredential, openTestDatabase, type TestCredential } from '../registry/world.ts'
import { type Forwarder, forwardKafka } from '../support/forwarder.ts'
import { eventually } from '../support/house.ts'
import { uniqueTopics } from '../support/servers.ts'
import { readTopic } from '../support/topics.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 3 * 60_000 })

let logged = ''
const log = pino(
  { level: 'info' },
  {
    write: (line: string) => {
      logged += line
    },
  },
)
let db: Database
let keysTopic: string
let kafka: Forwarder
let propagation: Propagation
let sweeping: ReturnType<typeof startSweeping>
beforeEach(async () => {
  logged = ''
  db = await openTestDatabase()
  const { topics } = await uniqueTopics()
  keysTopic = topics.keys
  kafka = await forwardKafka()
  propagation = createPropagation({ kafka: createKafka([kafka.address], 'test', log), topics, db, log, source: '/test' })
})
afterEach(async () => {
  await sweeping.stop()
  await propagation.stop()
  kafka.close()
  await db.close()
})

const published = ({ keyId }: TestCredential) =>
  eventually(
    async () => {
      const { publishedRevision, revision } = await keyOf(db, keyId)
      return publishedRevision === revision
    },
    `${keyId} published`,
    PATIENCE_MS,
  )
const revisionsOf = async ({ keyId }: TestCredential): Promise<number[]> =>
  (await readTopic(keysTopic))
    .filter(({ key }) => key === keyId)
    .sort((a, b) => a.offset - b.offset)
    .map(({ value }) => (JSON.parse(value ?? '') as { data: { revision: number } }).data.revision)

test('what nobody has published is published: a new key, a change, and what was left over while Kafka was away', async () => {
  const [fresh, changed] = [await makeCredential(db), await makeCredential(db)]
  await propagation.publish(changed.keyId)
  await compromiseKey(db, { keyId: changed.keyId, at: at(0), actor: 'test', reason: 'leak' })
  sweeping = startSweeping(db, propagation, async () => undefined, log, 200)
  await Promise.all([published(fresh), published(changed)])
  expect([await revisionsOf(fresh), await revisionsOf(changed)]).toEqual([[1], [1, 2]])

  kafka.cut()
  const meanwhile = await makeCredential(db)
  await eventually(() => logged.includes('a sweep failed'), 'a sweep fails', PATIENCE_MS)
  kafka.restore()
  await published(meanwhile)
})

test('G8: a rollover is looked after while Kafka takes nothing', async () => {
  const { credentialId } = await makeCredential(db)
  const rolloverId = `rol_${randomBase62(16)}` as RolloverId
  await openRollover(db, { rolloverId, selector: {}, credentialId, reason: 'breach', at: at(0), actor: 'test' })
  kafka.cut()
  let started = 0
  const start = async (): Promise<void> => void started++
  sweeping = startSweeping(db, propagation, start, log, 200)
  // The first sweep leaves the key to its owner; the one that fails wants to publish it.
  await eventually(() => logged.includes('a sweep failed'), 'a sweep fails', PATIENCE_MS)
  expect(started).toBeGreaterThan(1)
  kafka.restore()
})

test('a key whose owner publishes it is left to the owner', async () => {
  sweeping = startSweeping(db, propagation, async () => undefined, log, 2_000)
  const keys: TestCredential[] = []
  for (let i = 0; i < 5; i++) {
    const made = await makeCredential(db)
    await propagation.publish(made.keyId)
    keys.push(made)
  }
  const left = await makeCredential(db)
  await published(left)
  for (const made of keys) expect(await revisionsOf(made)).toEqual([1])
})

test('G5: the secret of a claim that nobody took in time is destroyed, once, with an entry in the audit log', async () => {
  // Their claims ended long ago.
  const made = await Promise.all(Array.from({ length: 3 }, () => makeCredential(db)))
  sweeping = startSweeping(db, propagation, async () => undefined, log, 100)
  const claims = () =>
    db.query<{ state: string; ciphertext: Buffer | null; nonce: Buffer | null }>('select state, ciphertext, nonce from claims')
  await eventually(async () => (await claims()).every(({ state }) => state === 'expired'), 'all claims have ended', PATIENCE_MS)
  expect(await claims()).toEqual(made.map(() => ({ state: 'expired', ciphertext: null, nonce: null })))
  await Promise.all(made.map(published))
  const entries = await db.query<{ subject: string }>(`select subject from audit where action = 'claim.expired'`)
  expect(entries.map(({ subject }) => subject).sort()).toEqual(made.map(({ claimId }) => claimId).sort())
})
