import { DEFAULT_POLICY, type KeyId, type RotationId, randomBase62 } from '@keyturn/contract'
import type { KeyEntry } from '@keyturn/gateway'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createKafka } from '../../activities/kafka.ts'
import { createKeyActivities } from '../../activities/keys.ts'
import { createPropagation, type Propagation } from '../../activities/propagation.ts'
import type { Database } from '../../registry/database.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { openRotation } from '../../registry/rotations.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'

let house: House
const closers: (() => Promise<unknown>)[] = []

beforeAll(async () => {
  house = await openHouse({ time: 'real', worker: false, collector: false })
})
afterAll(async () => {
  for (const close of closers) await close()
  await house.close()
})

async function propagation(db: Database = house.db): Promise<Propagation> {
  const kafka = createKafka(house.config.kafkaBrokers, 'test', house.log)
  const opened = createPropagation({ kafka, topics: house.config.topics, db, log: house.log, source: '/keyturn/test' })
  closers.push(() => opened.stop())
  return opened
}

const compromise = (keyId: KeyId) => compromiseKey(house.db, { keyId, at: new Date(), actor: 'test', reason: 'test' })

/** How many events the keys topic has. */
async function published(): Promise<number> {
  const admin = createKafka(house.config.kafkaBrokers, 'test', house.log).admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets(house.config.topics.keys)
  await admin.disconnect()
  return ends.reduce((sum, { high }) => sum + Number(high), 0)
}

test('G3: gateways hear of every change of a key before the step that waits for their receipt', async () => {
  const { keyId, credentialId, token } = await house.credential()
  const { brand } = house.config
  const activities = createKeyActivities({ db: house.db, sealer: house.sealer, brand, propagation: await propagation() })
  const rotationId = `rot_${randomBase62(16)}` as RotationId
  const by = { rotationId, actor: 'test', at: Date.now() }
  await openRotation(house.db, {
    ...by,
    credentialId,
    trigger: 'manual',
    reason: 'test',
    policy: DEFAULT_POLICY,
    at: new Date(by.at),
  })
  const heard = async (what: string, of: KeyId, met: (key: KeyEntry | undefined) => boolean): Promise<void> => {
    await eventually(() => house.gateways.every(({ cache }) => met(cache.get(of))), what)
  }
  const change = { ...by, keyId, reason: 'test' }

  const { keyId: newKeyId, version } = await activities.introduceKey({ ...by, claimUntil: by.at + 60_000 })
  await heard('the new key', newKeyId, (key) => key?.state === 'active')
  await activities.deprecateKey({ ...by, keyId, sunsetAt: by.at + 60_000, successor: version })
  await heard('the sunset', keyId, (key) => key?.successor === version)
  await activities.deactivateKey({ ...change, unless: 'never' })
  await heard('the deactivation', keyId, (key) => key?.state === 'deactivated')
  await activities.reinstateKey(change)
  await heard('the reinstatement', keyId, (key) => key?.state === 'active')
  await activities.compromiseKey(change)
  await heard('the compromise', keyId, (key) => key?.state === 'compromised')
  expect(house.verdicts(token)).toEqual([false])
})

test('the step that follows takes over what was published ahead: one event for one change', async () => {
  const { keyId } = await house.credential()
  const events = await published()
  const { publishAhead, publish } = await propagation()
  await compromise(keyId)
  publishAhead(keyId)
  const publication = await publish(keyId)
  expect(publication).toMatchObject({ keyId, revision: 2, event: 'keyturn.key.compromised' })
  expect(await published()).toBe(events + 1)
})

test('a retry of that step publishes again', async () => {
  const { keyId } = await house.credential()
  const { publishAhead, publish } = await propagation()
  publishAhead(keyId)
  const first = await publish(keyId)
  const second = await publish(keyId)
  expect(second.partition).toBe(first.partition)
  expect(Number(second.offset)).toBeGreaterThan(Number(first.offset))
})

test('G3: a key that has changed since it was published ahead is published anew', async () => {
  const { keyId } = await house.credential()
  const { publishAhead, publish } = await propagation()
  const events = await published()
  publishAhead(keyId)
  await eventually(async () => (await published()) > events, 'the event published ahead')
  await compromise(keyId)
  expect(await publish(keyId)).toMatchObject({ revision: 2, event: 'keyturn.key.compromised' })
})

test('G8: what could not be published ahead is published by the step that follows', async () => {
  const { keyId } = await house.credential()
  let failures = 1
  const failingOnce: Database = {
    ...house.db,
    tx: (work) => (failures-- > 0 ? Promise.reject(new Error('the connection was lost')) : house.db.tx(work)),
  }
  const { publishAhead, publish } = await propagation(failingOnce)
  await compromise(keyId)
  publishAhead(keyId)
  expect(await publish(keyId)).toMatchObject({ revision: 2, event: 'keyturn.key.compromised' })
  expect(failures).toBeLessThan(0)
})
