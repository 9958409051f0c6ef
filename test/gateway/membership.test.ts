import type { TopicNames } from '@keyturn/contract'
import { decodeGatewayEvent, type GatewayReport, tokenSha256 } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { atOnce } from '../support/at-once.ts'
import { kafkaClient } from '../support/servers.ts'
import { readTopic } from '../support/topics.ts'
import { eventually, forwardKafka, issueKey, keyMessage, openBench } from './support.ts'

async function reports(topics: TopicNames): Promise<(GatewayReport | 'tombstone')[]> {
  const messages = await readTopic(topics.gateways)
  return messages.map(({ key, value }) => {
    if (value === undefined) return 'tombstone'
    const decoded = decodeGatewayEvent(value)
    if (!decoded.ok) throw new Error(`not a report: ${decoded.flaw}`)
    expect(decoded.event.subject).toBe(key)
    return decoded.event.data
  })
}

const lastReport = async (topics: TopicNames) => {
  const last = (await reports(topics)).at(-1)
  return last === 'tombstone' ? undefined : last
}

describe('nobody slips in between', () => {
  test('the announcement, with nothing applied, is the first thing on the topic; then come watermarks', async () => {
    const bench = await openBench()
    await bench.publish(keyMessage(issueKey().record))
    const gateway = bench.gateway({ gatewayId: 'gw-a', region: 'north' })
    await gateway.start()
    const first = (await reports(bench.topics))[0]
    expect(first).toMatchObject({ gatewayId: 'gw-a', region: 'north', positions: {}, keys: 0, freshness: 'loading' })
    expect(first).not.toHaveProperty('freshAsOf')
    const last = await eventually(
      'a report after loading',
      () => lastReport(bench.topics),
      (report) => report?.freshness === 'fresh',
    )
    expect(last?.keys).toBe(1)
    expect(last?.positions).toEqual(gateway.status().positions)
    expect(last?.incarnation).toBe(gateway.status().incarnation)
  })

  test('whoever finds no announcement on the topic publishes before the ends are asked for: the gateway has the event before it serves', async () => {
    const bench = await openBench()
    const kafka = await forwardKafka()
    const gateway = bench.gateway({ kafka: { brokers: [kafka.address], topics: bench.topics } })
    kafka.cut()
    const started = gateway.start()
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    expect(await reports(bench.topics)).toEqual([])
    expect(gateway.ready).toBe(false)
    kafka.restore()
    await started
    expect(gateway.verify(token).outcome).toBe('accepted')
  })

  test('an announcement that is not acknowledged is no announcement: nothing is asked for, nothing is served', async () => {
    const bench = await openBench()
    const kafka = kafkaClient()
    const admin = kafka.admin()
    await admin.connect()
    await admin.deleteTopics({ topics: [bench.topics.gateways] })
    await eventually(
      'the topic is gone',
      () => admin.listTopics(),
      (topics) => !topics.includes(bench.topics.gateways),
    )
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    const gateway = bench.gateway()
    const started = gateway.start()
    await eventually('the announcement fails', bench.logged, (logged) => logged.includes('a watermark report could not be sent'))
    expect(gateway.status()).toMatchObject({ ready: false, positions: {}, keys: 0, freshness: 'loading' })
    expect(gateway.authenticate({ headers: { 'x-api-key': token }, address: undefined })).toMatchObject({
      problem: { status: 503 },
    })
    await admin.createTopics({ waitForLeaders: true, topics: [{ topic: bench.topics.gateways, numPartitions: 1 }] })
    await admin.disconnect()
    await started
    expect(atOnce(gateway.authenticate({ headers: { 'x-api-key': token }, address: undefined })).accepted).toBe(true)
  })

  test('not ready before everything is applied that was there when it announced itself', async () => {
    const bench = await openBench()
    const keys = Array.from({ length: 3_000 }, () => issueKey())
    await bench.publish(...keys.map(({ record }) => keyMessage(record)))
    const gateway = bench.gateway()
    const missing = gateway.start().then(() => keys.filter(({ token }) => gateway.cache.find(tokenSha256(token)) === undefined))
    expect(gateway.ready).toBe(false)
    expect(await missing).toEqual([])
    expect(gateway.ready).toBe(true)
  })
})

describe('watermarks', () => {
  test('G3: a report with the new position follows an applied event at once, not at the next heartbeat', async () => {
    const bench = await openBench()
    const gateway = bench.gateway({ heartbeatMs: 60_000, stalenessMs: 60_000 })
    await gateway.start()
    const { record } = issueKey()
    await bench.publish({ ...keyMessage(record), partition: 1 })
    const report = await eventually(
      'the watermark',
      () => lastReport(bench.topics),
      (r) => r?.positions['1'] === 1,
      10_000,
    )
    expect(report).toMatchObject({ keys: 1, positions: { 0: 0, 1: 1, 2: 0 } })
  })

  test('heartbeats follow one another without any event', async () => {
    const bench = await openBench()
    const gateway = bench.gateway({ heartbeatMs: 100, stalenessMs: 60_000 })
    await gateway.start()
    const before = (await reports(bench.topics)).length
    await eventually(
      'three more',
      async () => (await reports(bench.topics)).length,
      (count) => count >= before + 3,
    )
  })

  test('a stopped gateway leaves a tombstone as its last word, decides nothing, and may come back', async () => {
    const bench = await openBench()
    const key = issueKey()
    await bench.publish(keyMessage(key.record))
    const gateway = bench.gateway({ gatewayId: 'gw-a', heartbeatMs: 50 })
    await gateway.start()
    await gateway.stop()
    expect((await reports(bench.topics)).at(-1)).toBe('tombstone')
    expect(gateway.authenticate({ headers: { 'x-api-key': key.token }, address: undefined })).toMatchObject({
      problem: { status: 503 },
    })
    const again = bench.gateway({ gatewayId: 'gw-a' })
    await again.start()
    await eventually(
      'it reports again',
      () => lastReport(bench.topics),
      (report) => report?.freshness === 'fresh',
    )
    expect(again.status().incarnation).not.toBe(gateway.status().incarnation)
  })

  test('stopped before it was ever ready: no report after the tombstone, and start says so', async () => {
    const bench = await openBench()
    const gateway = bench.gateway()
    const started = gateway.start().catch((error: Error) => error.message)
    await gateway.stop()
    expect(await started).toBe('the gateway was stopped before it was ready')
    const last = (await reports(bench.topics)).at(-1)
    expect([undefined, 'tombstone']).toContain(last)
  })

  test('a report that hung is not written after the tombstone', async () => {
    const bench = await openBench()
    const kafka = await forwardKafka()
    const gateway = bench.gateway({
      gatewayId: 'gw-a',
      kafka: { brokers: [kafka.address], topics: bench.topics },
      heartbeatMs: 100,
      stalenessMs: 60_000,
    })
    await gateway.start()
    kafka.swallow()
    await eventually('a report hangs', bench.logged, (logged) => logged.includes('a watermark report could not be sent'), 60_000)
    kafka.restore()
    await gateway.stop(20_000)
    const other = bench.gateway({ gatewayId: 'gw-b', heartbeatMs: 500 })
    await other.start()
    const said = await eventually(
      'others report for a while',
      () => readTopic(bench.topics.gateways),
      (all) => all.filter(({ key }) => key === 'gw-b').length > 6,
      60_000,
    )
    const last = said.filter(({ key }) => key === 'gw-a').at(-1)
    expect(last?.value).toBeUndefined()
  })
})
