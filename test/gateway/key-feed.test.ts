import { encodeEvent, type KeyRecord } from '@keyturn/contract'
import type { Gateway } from '@keyturn/gateway'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ensureTopics } from '../../infra/topics.ts'
import { kafkaClient } from '../support/servers.ts'
import { eventually, issueKey, keyMessage, type Message, NOW, openBench } from './support.ts'

const held = (gateway: Gateway) =>
  [...gateway.cache.entries()].map(({ keyId, state, revision }) => `${keyId} ${state} ${revision}`).sort()

const caughtUp = (gateway: Gateway, messages: number) =>
  eventually(
    `${messages} messages are applied or skipped`,
    () => Object.values(gateway.status().positions).reduce((a, b) => a + b, 0),
    (read) => read === messages,
  )

describe('G4: convergence on the real log', () => {
  test('G4: duplicated, reordered and replayed events, and a start from nothing, end in the same cache', async () => {
    const bench = await openBench()
    const lives = Array.from({ length: 20 }, () => {
      const { record } = issueKey()
      const states = ['active', 'suspended', 'active', 'deactivated'] as const
      return states.map((state, i): KeyRecord => ({ ...record, state, revision: i + 1 }))
    })
    const events = lives.flat()
    const [order] = fc.sample(fc.shuffledSubarray([...events, ...events], { minLength: events.length * 2 }), 1)
    const running = bench.gateway()
    await running.start()
    await bench.publish(...(order ?? []).map((record) => keyMessage(record)))
    // Replayed from the start, as `republish` or a zombie would.
    await bench.publish(...events.map((record) => keyMessage(record)))
    await caughtUp(running, events.length * 3)

    const expected = lives.map((life) => `${life[0]?.keyId} deactivated 4`).sort()
    expect(held(running)).toEqual(expected)
    const restarted = bench.gateway()
    await restarted.start()
    expect(held(restarted)).toEqual(expected)
    expect(running.status().skipped['same-revision']).toBeGreaterThan(0)
    expect(running.status().skipped['not-an-event']).toBe(0)
  })

  test('G4: a tombstone removes the key, and no older event that comes after it brings it back', async () => {
    const bench = await openBench()
    const [kept, destroyed] = [issueKey(), issueKey()]
    await bench.publish(keyMessage(kept.record), keyMessage(destroyed.record))
    const gateway = bench.gateway()
    await gateway.start()
    expect(gateway.verify(destroyed.token).outcome).toBe('accepted')
    await bench.publish({ key: destroyed.record.keyId, value: null })
    await bench.publish(keyMessage({ ...destroyed.record, revision: 5 }))
    await caughtUp(gateway, 4)
    expect(gateway.verify(destroyed.token).outcome).toBe('unknown')
    expect(held(gateway)).toEqual([`${kept.record.keyId} active 1`])
    expect(gateway.status().skipped['destroyed-key']).toBe(1)
  })
})

test('poisoned messages are counted, logged without their content, and passed over', async () => {
  const bench = await openBench()
  const { record, token } = issueKey()
  const good = issueKey()
  const other = issueKey()
  const event = (data: unknown, subject: string = record.keyId) =>
    encodeEvent({ type: 'keyturn.key.introduced', source: '/test', subject, time: new Date(NOW), data })
  const poison: Message[] = [
    { key: record.keyId, value: `{"not json": ${token}` },
    { key: record.keyId, value: '' },
    { key: record.keyId, value: '[]' },
    { key: record.keyId, value: event({ ...record, revision: 0 }) },
    { key: record.keyId, value: event({ ...record, state: 'happy' }) },
    { key: other.record.keyId, value: event(record) },
    { key: record.keyId, value: event(record, other.record.keyId) },
    { key: '', value: event(record) },
    { key: '', value: null },
    { key: '__proto__', value: null },
    { key: record.keyId, value: event({ ...record, verifier: good.record.verifier }) },
  ]
  const first = keyMessage(good.record)
  await bench.publish(...[first, ...poison].map((message) => ({ ...message, partition: 0 })))
  const gateway = bench.gateway()
  await gateway.start()
  expect(gateway.status().positions).toEqual({ 0: 12, 1: 0, 2: 0 })
  expect(held(gateway)).toEqual([`${good.record.keyId} active 1`])
  expect(gateway.status().skipped).toMatchObject({
    'not-json': 2,
    'not-an-event': 3,
    'wrong-key': 5,
    'verifier-taken': 1,
    failed: 0,
  })
  expect(bench.logged()).toContain('message on the keys topic skipped')
  expect(bench.logged()).not.toContain(token)

  await bench.publish({ ...keyMessage(record), partition: 0 })
  await eventually(
    'a good event after them is applied',
    () => gateway.verify(token).outcome,
    (outcome) => outcome === 'accepted',
  )
})

test('partitions added later are read', async () => {
  const bench = await openBench()
  const gateway = bench.gateway({ stalenessMs: 1_000 })
  await gateway.start()
  const admin = kafkaClient().admin()
  await admin.connect()
  await admin.createPartitions({ topicPartitions: [{ topic: bench.topics.keys, count: 5 }] })
  await admin.disconnect()
  const { record, token } = issueKey()
  await eventually(
    'an event on the new partition is applied',
    async () => {
      // The producer learns of the partition in its own time.
      await bench.publish({ ...keyMessage(record), partition: 4 }).catch(() => undefined)
      return gateway.verify(token).outcome
    },
    (outcome) => outcome === 'accepted',
  )
})

describe('after a long time without Kafka', () => {
  test('G4: the log is read from its start, so that a key whose tombstone was compacted away is gone', async () => {
    const bench = await openBench()
    const { record } = issueKey()
    await bench.publish(keyMessage(record))
    // Every question finds that it was away for longer than this.
    const gateway = bench.gateway({ stalenessMs: 1_000, reloadAfterMs: 50 })
    await gateway.start()
    // Of this key the log knows nothing, as after its tombstone went.
    const forgotten = issueKey()
    gateway.cache.apply(forgotten.record)
    await eventually(
      'the forgotten key is gone',
      () => gateway.cache.size,
      (size) => size === 1,
    )
    expect(gateway.cache.get(record.keyId)?.revision).toBe(1)
    expect(bench.logged()).toContain('too long without Kafka')
  })

  test('a keys topic that was made anew costs no key, and what is republished is applied', async () => {
    const bench = await openBench()
    const { record, token } = issueKey()
    await bench.publish(...[1, 2, 3].map((revision) => keyMessage({ ...record, revision })))
    const gateway = bench.gateway({ stalenessMs: 1_000 })
    await gateway.start()
    const admin = kafkaClient().admin()
    await admin.connect()
    await admin.deleteTopics({ topics: [bench.topics.keys] })
    await eventually(
      'the topic is gone',
      () => admin.listTopics(),
      (topics) => !topics.includes(bench.topics.keys),
    )
    await ensureTopics(kafkaClient(), bench.topics)
    await admin.disconnect()
    await eventually('it is noticed', bench.logged, (logged) => logged.includes('ends before what was read of it'))
    expect(gateway.verify(token).outcome).toBe('accepted')
    await eventually(
      'a republished event is applied',
      async () => {
        await bench.publish(keyMessage({ ...record, revision: 4, state: 'deactivated' })).catch(() => undefined)
        return gateway.verify(token).outcome
      },
      (outcome) => outcome === 'refused',
    )
  })
})
