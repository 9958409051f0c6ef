import { decodeUsageEvent, type TopicNames, type UsageEvent, type UsageOutcome } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { UsageWindow } from '../../gateway/src/usage-window.ts'
import { atOnce } from '../support/at-once.ts'
import { readTopic } from '../support/topics.ts'
import { bearer, eventually, forwardKafka, issueKey, keyMessage, NOW, openBench, TestClock } from './support.ts'

async function usageEvents(topics: TopicNames): Promise<UsageEvent[]> {
  return (await readTopic(topics.usage)).map(({ key, value }) => {
    const decoded = decodeUsageEvent(value ?? '')
    if (!decoded.ok) throw new Error(`not usage: ${decoded.flaw}`)
    expect(decoded.event.data.keyId).toBe(key)
    return decoded.event
  })
}

/** What a collector adds up that knows each event by its id. */
function added(events: UsageEvent[], keyId: string): Partial<Record<UsageOutcome, number>> {
  const sum: Partial<Record<UsageOutcome, number>> = {}
  for (const { data } of new Map(events.map((event) => [event.id, event])).values()) {
    if (data.keyId === keyId) for (const { outcome, count } of data.outcomes) sum[outcome] = (sum[outcome] ?? 0) + count
  }
  return sum
}

describe('usage reports', () => {
  test('count every outcome of a window exactly, with first and last time and sources', async () => {
    const bench = await openBench()
    const clock = new TestClock()
    const [active, revoked, dev] = [issueKey(), issueKey({ state: 'deactivated' }), issueKey({ environment: 'dev' })]
    await bench.publish(...[active, revoked, dev].map(({ record }) => keyMessage(record)))
    const gateway = bench.gateway({ gatewayId: 'gw-a', clock: clock.read })
    await gateway.start()
    for (const agent of ['curl/8', 'curl/8', 'app/1']) {
      clock.now += 10
      gateway.authenticate(bearer(active.token, agent))
    }
    gateway.authenticate(bearer(revoked.token))
    gateway.authenticate(bearer(dev.token))
    gateway.authenticate(bearer(issueKey().token))
    const accepted = atOnce(gateway.authenticate(bearer(active.token, 'app/1')))
    if (accepted.accepted) gateway.refusedUpstream(accepted.key)
    clock.now += 100
    await gateway.flushUsage()

    const events = await usageEvents(bench.topics)
    expect(events).toHaveLength(3)
    const data = events.map((event) => event.data)
    const iso = (ms: number) => new Date(NOW + ms).toISOString()
    expect(data.find(({ keyId }) => keyId === active.record.keyId)).toEqual({
      gatewayId: 'gw-a',
      keyId: active.record.keyId,
      from: iso(0),
      to: iso(130),
      outcomes: [
        { outcome: 'accepted', count: 4, firstAt: iso(10), lastAt: iso(30) },
        { outcome: 'refused-upstream', count: 1, firstAt: iso(30), lastAt: iso(30) },
      ],
      sources: [
        { address: '192.0.2.7', userAgent: 'app/1', count: 2, lastAt: iso(30) },
        { address: '192.0.2.7', userAgent: 'curl/8', count: 2, lastAt: iso(20) },
      ],
      incarnation: gateway.status().incarnation,
      serial: expect.any(Number),
    })
    expect(data.map(({ serial }) => serial).sort()).toEqual([1, 2, 3])
    expect(added(events, revoked.record.keyId)).toEqual({ refused: 1 })
    expect(added(events, dev.record.keyId)).toEqual({ 'wrong-environment': 1 })
  })

  test('claim no more than what is acknowledged: usageThrough stays while Kafka is away, and nothing is lost or counted twice', async () => {
    const bench = await openBench()
    const kafka = await forwardKafka()
    const clock = new TestClock()
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    const gateway = bench.gateway({ kafka: { brokers: [kafka.address], topics: bench.topics }, clock: clock.read })
    await gateway.start()
    gateway.authenticate(bearer(token))
    await gateway.flushUsage()
    const through = gateway.status().usageThrough
    expect(through).toBe(new Date(NOW).toISOString())

    let sent = 1
    const use = (times: number) => {
      for (let i = 0; i < times; i++) gateway.authenticate(bearer(token))
      sent += times
    }
    kafka.cut()
    for (let i = 0; i < 3; i++) {
      clock.now += 1_000
      use(7)
      const failed = gateway.flushUsage()
      use(5)
      await expect(failed).rejects.toThrow()
      expect(gateway.status().usageThrough).toBe(through)
    }
    clock.now += 1_000
    kafka.restore()
    await eventually(
      'Kafka takes it',
      () =>
        gateway.flushUsage().then(
          () => true,
          () => false,
        ),
      (flushed) => flushed,
    )
    expect(gateway.status().usageThrough).toBe(new Date(clock.now).toISOString())
    expect(added(await usageEvents(bench.topics), record.keyId)).toEqual({ accepted: sent })
  })

  test('are the same events, with the same ids, when a window has to be sent again', async () => {
    const bench = await openBench()
    const kafka = await forwardKafka()
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    const gateway = bench.gateway({ kafka: { brokers: [kafka.address], topics: bench.topics } })
    await gateway.start()
    gateway.authenticate(bearer(token))
    await gateway.flushUsage()

    gateway.authenticate(bearer(token))
    kafka.mute()
    const unheard = gateway.flushUsage()
    gateway.authenticate(bearer(token))
    await Promise.all([
      expect(unheard).rejects.toThrow(),
      eventually(
        'the broker has it',
        () => usageEvents(bench.topics),
        (events) => events.length === 2,
      ).then(() => kafka.cut()),
    ])
    gateway.authenticate(bearer(token))
    kafka.restore()
    await gateway.flushUsage()

    const events = await usageEvents(bench.topics)
    const ids = events.map(({ id }) => id)
    expect(ids).toHaveLength(4)
    expect(new Set(ids).size).toBe(3)
    // One key, one partition: this is the order of sending. What was sent again keeps its number.
    expect(events.map(({ data }) => data.serial)).toEqual([1, 2, 2, 3])
    expect(new Set(events.map((event) => JSON.stringify(event))).size).toBe(3)
    expect(added(events, record.keyId)).toEqual({ accepted: 4 })
  })

  test('are sent by themselves once per window, and usageThrough moves on when there is nothing to report', async () => {
    const bench = await openBench()
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    const gateway = bench.gateway({ usageWindowMs: 50 })
    await gateway.start()
    gateway.authenticate(bearer(token))
    await eventually(
      'it is reported',
      () => usageEvents(bench.topics),
      (events) => added(events, record.keyId).accepted === 1,
    )
    const before = gateway.status().usageThrough ?? ''
    await eventually(
      'the claim moves on',
      () => gateway.status().usageThrough ?? '',
      (through) => through > before,
    )
    expect(await usageEvents(bench.topics)).toHaveLength(1)
  })

  test('are flushed when the gateway stops', async () => {
    const bench = await openBench()
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    const gateway = bench.gateway()
    await gateway.start()
    for (let i = 0; i < 1_000; i++) gateway.authenticate(bearer(token))
    await gateway.stop()
    expect(added(await usageEvents(bench.topics), record.keyId)).toEqual({ accepted: 1_000 })
  })

  test('of many keys fit into messages that the broker takes', async () => {
    const bench = await openBench()
    const keys = Array.from({ length: 3_000 }, () => issueKey())
    const gateway = bench.gateway()
    await gateway.start()
    for (const { record, token } of keys) {
      gateway.cache.apply(record)
      gateway.authenticate(bearer(token, `agent ${'x y '.repeat(60)}`))
    }
    await gateway.flushUsage()
    const events = await usageEvents(bench.topics)
    expect(new Set(events.map(({ data }) => data.keyId)).size).toBe(3_000)
    expect(events).toHaveLength(3_000)
  })
})

test('a window follows a bounded number of sources per key and keeps the busiest', () => {
  const window = new UsageWindow(NOW)
  const { record } = issueKey()
  for (let i = 0; i < 500; i++) {
    window.count(record.keyId, 'accepted', NOW + i, { address: '192.0.2.1', userAgent: `once/${i}` })
    window.count(record.keyId, 'accepted', NOW + i, { address: '192.0.2.1', userAgent: `often/${i % 9}` })
  }
  const [report] = [...window.reports('gw' as never, NOW + 500)]
  expect(report?.outcomes).toMatchObject([{ outcome: 'accepted', count: 1_000 }])
  expect(report?.sources).toHaveLength(10)
  expect(report?.sources.filter(({ userAgent }) => userAgent.startsWith('often/')).map(({ count }) => count)).toEqual([
    56, 56, 56, 56, 56, 55, 55, 55, 55,
  ])
})
