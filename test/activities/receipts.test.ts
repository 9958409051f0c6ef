import { encodeEvent, GATEWAY_REPORT_TYPE, type KeyId, type Receipt } from '@keyturn/contract'
import { MockActivityEnvironment } from '@temporalio/testing'
import pino from 'pino'
import { afterAll, beforeEach, expect, inject, onTestFinished, test } from 'vitest'
import { createKafka, createPublisher, type Publisher } from '../../activities/kafka.ts'
import { createPropagation, type Propagation, type Publication } from '../../activities/propagation.ts'
import { createReceiptActivities } from '../../activities/receipts.ts'
import type { Database } from '../../registry/database.ts'
import { DAY, makeCredential, open, openTestDatabase } from '../registry/world.ts'
import { uniqueTopics } from '../support/servers.ts'
import { createWords, type Words } from './words.ts'

let logged = ''
const log = pino(
  { level: 'debug' },
  {
    write: (line: string) => {
      logged += line
    },
  },
)
let db: Database
let topics: Awaited<ReturnType<typeof uniqueTopics>>['topics']
let propagation: Propagation
let publisher: Publisher
let words: Words
afterAll(() => db.close())
beforeEach(async () => {
  db ??= await openTestDatabase()
  topics = (await uniqueTopics()).topics
  const kafka = createKafka(inject('kafkaBrokers'), 'test', log)
  propagation = createPropagation({ kafka, topics, db, log, source: '/test' })
  publisher = createPublisher(kafka)
  words = createWords(publisher, topics)
  onTestFinished(async () => {
    await Promise.all([propagation.stop(), publisher.stop()])
  })
})

const say = (gatewayId: string, incarnation: string, positions: Record<string, number>): Promise<string> =>
  words.say(gatewayId, { incarnation, positions })

const past = ({ partition, offset }: Publication) => ({ [partition]: Number(offset) + 1 })
const before = ({ partition, offset }: Publication) => ({ [partition]: Number(offset) })

async function publishKey(): Promise<Publication> {
  const { keyId } = await makeCredential(db)
  return propagation.publish(keyId as KeyId)
}

/** A wait for a receipt that has begun, and what has become of it. */
async function wait(publication: Publication) {
  const stop = new AbortController()
  let receipt: Receipt | undefined
  const done = propagation.waitForReceipt(publication, { timeoutMs: 60_000, signal: stop.signal }).then(
    (complete) => {
      receipt = complete
      return complete
    },
    () => undefined,
  )
  onTestFinished(() => stop.abort())
  // By then it has had its own first look.
  for (let i = 0; i < 3; i++) await propagation.watch.readToEnd()
  return {
    /** Once there is a receipt. */
    done: () => done,
    /** Whether it still waits once all that was said has been heard. */
    async goesOn(): Promise<boolean> {
      await propagation.watch.readToEnd()
      await new Promise((resolve) => setImmediate(resolve))
      return receipt === undefined
    },
  }
}

const look = (publication: Publication) => propagation.waitForReceipt(publication, { timeoutMs: 0 })

test('G3: names each gateway that has not applied the event, and when each of the others had', async () => {
  const publication = await publishKey()
  await say('gw-b', '1', before(publication))
  await say('gw-c', '1', {})
  await say('gw-a', '1', past(publication))
  const { gateways, unconfirmed, ...receipt } = await look(publication)
  expect(unconfirmed).toEqual(['gw-b', 'gw-c'])
  expect(gateways.map(({ gatewayId }) => gatewayId)).toEqual(['gw-a'])
  expect(gateways[0]?.ms).toBe(Date.parse(gateways[0]?.appliedAt ?? '') - publication.publishedAt.getTime())
  expect(receipt).toMatchObject({ keyId: publication.keyId, revision: 1, event: 'keyturn.key.introduced' })
})

test('G3: a receipt is waited for no longer than half a day, whatever a policy says that was stored long ago', async () => {
  const credential = await makeCredential(db)
  const rotationId = await open(db, credential)
  const waits: number[] = []
  const waitForReceipt: Propagation['waitForReceipt'] = (publication, options) => {
    waits.push(options.timeoutMs)
    return propagation.waitForReceipt(publication, options)
  }
  const { propagate } = createReceiptActivities({ db, propagation: { ...propagation, waitForReceipt } })
  const input = { rotationId, keyId: credential.keyId, waitMs: 366 * DAY }
  expect(await new MockActivityEnvironment().run(propagate, input)).toMatchObject({ receipt: { unconfirmed: [] } })
  expect(waits).toEqual([DAY / 2])
})

test('G3: a gateway is confirmed with its first report past the event, not a later one', async () => {
  const publication = await publishKey()
  await say('gw-b', '1', before(publication))
  const at = await say('gw-a', '1', past(publication))
  for (let i = 0; i < 5; i++) await say('gw-a', '1', past(publication))
  expect((await look(publication)).gateways).toMatchObject([{ gatewayId: 'gw-a', appliedAt: at }])
  const waiting = await wait(publication)
  expect(await waiting.goesOn()).toBe(true)
  // More than are remembered of one gateway.
  for (let i = 0; i < 80; i++) await say('gw-a', '1', past(publication))
  await say('gw-b', '1', past(publication))
  expect((await waiting.done())?.gateways).toMatchObject([{ gatewayId: 'gw-a', appliedAt: at }, { gatewayId: 'gw-b' }])
})

test('G3: a gateway that restarts while it is waited for counts only when its new incarnation has applied the event', async () => {
  const publication = await publishKey()
  await say('gw-a', 'first', past(publication))
  await say('gw-b', '1', before(publication))
  const waiting = await wait(publication)
  expect(await waiting.goesOn()).toBe(true)
  await say('gw-a', 'second', {})
  await say('gw-b', '1', past(publication))
  expect(await waiting.goesOn()).toBe(true)
  expect((await look(publication)).unconfirmed).toEqual(['gw-a'])
  await say('gw-a', 'second', past(publication))
  expect((await waiting.done())?.unconfirmed).toEqual([])
})

test('G3: one that was declared gone is not waited for; one that still lives is back on the list with its next report', async () => {
  const publication = await publishKey()
  for (const gatewayId of ['gw-a', 'gw-b']) await say(gatewayId, '1', before(publication))
  const waiting = await wait(publication)
  expect(await propagation.declareGone('gw-a')).toBe(true)
  expect(await waiting.goesOn()).toBe(true)
  expect((await look(publication)).unconfirmed).toEqual(['gw-b'])
  await say('gw-a', '1', before(publication))
  await say('gw-b', '1', past(publication))
  expect(await waiting.goesOn()).toBe(true)
  expect((await look(publication)).unconfirmed).toEqual(['gw-a'])
  await propagation.declareGone('gw-a')
  expect((await waiting.done())?.unconfirmed).toEqual([])
  expect(await propagation.declareGone('gw-a')).toBe(false)
})

test('G3: a gateway that leaves in order is not waited for, and keeps its line when it had applied the event', async () => {
  const publication = await publishKey()
  await say('gw-a', '1', past(publication))
  await say('gw-b', '1', before(publication))
  const waiting = await wait(publication)
  expect(await waiting.goesOn()).toBe(true)
  await words.leave('gw-a')
  await words.leave('gw-b')
  const receipt = await waiting.done()
  expect(receipt?.gateways.map(({ gatewayId }) => gatewayId)).toEqual(['gw-a'])
  expect(receipt?.unconfirmed).toEqual([])
})

test('G3: whoever announces itself after the wait has begun is not waited for: it reads the event before it serves', async () => {
  const publication = await publishKey()
  await say('gw-a', '1', before(publication))
  const waiting = await wait(publication)
  expect(await waiting.goesOn()).toBe(true)
  await say('gw-late', '1', {})
  await say('gw-a', '1', past(publication))
  expect(await waiting.done()).toMatchObject({ gateways: [{ gatewayId: 'gw-a' }], unconfirmed: [] })
})

test('G3: a position in a keys topic that was lost confirms nothing in the one made anew', async () => {
  const publication = await publishKey()
  await say('gw-a', '1', { [publication.partition]: 5_000 })
  await say('gw-a', '1', before(publication))
  expect((await look(publication)).unconfirmed).toEqual(['gw-a'])
  await say('gw-a', '1', past(publication))
  expect((await look(publication)).unconfirmed).toEqual([])
})

test('poison on the gateways topic is skipped: logged without its content, confirming nobody, breaking nothing', async () => {
  const publication = await publishKey()
  const secret = 'kt_prod_thisIsNoRealSecret'
  await say('gw-a', '1', before(publication))
  const event = (data: unknown, subject = 'gw-a') =>
    encodeEvent({ type: GATEWAY_REPORT_TYPE, source: '/test', subject, time: new Date(), data })
  const report = { gatewayId: 'gw-a', incarnation: '1', region: 'x', at: new Date().toISOString(), keys: 0, freshness: 'fresh' }
  const poison = [
    { key: 'gw-a', value: `not json ${secret}` },
    { key: 'gw-a', value: '' },
    { key: 'gw-a', value: '[]' },
    { key: 'gw-a', value: event(report) },
    { key: 'gw-a', value: event({ ...report, positions: { 0: -1 } }) },
    { key: 'gw-b', value: event({ ...report, positions: past(publication) }) },
    { key: '', value: event({ ...report, positions: past(publication) }) },
    { key: '', value: null },
    { key: 'gw-a', value: Buffer.from([0, 255, 254, 1]) },
    { key: 'gw-a', value: `"${'x'.repeat(900_000)}"` },
  ]
  for (const message of poison) await publisher.send(topics.gateways, [message])
  // One without a key the broker itself does not take, as the topic is compacted.
  await expect(publisher.send(topics.gateways, [{ value: event(report) }])).rejects.toThrow()
  expect((await look(publication)).unconfirmed).toEqual(['gw-a'])
  expect(logged.split('skipped a gateway report that makes no sense')).toHaveLength(poison.length)
  expect(logged).not.toContain(secret)
  expect(logged).not.toContain('xxx')
  await say('gw-a', '1', past(publication))
  expect((await look(publication)).unconfirmed).toEqual([])
})
