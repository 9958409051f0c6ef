import pino from 'pino'
import { expect, onTestFinished, test } from 'vitest'
import { createKafka, createPublisher, type Publisher } from '../../activities/kafka.ts'
import { forwardKafka } from '../support/forwarder.ts'
import { eventually } from '../support/house.ts'
import { uniqueTopics } from '../support/servers.ts'
import { readTopic } from '../support/topics.ts'

/** PostgreSQL ends a transaction that has idled for so long (registry/database.ts), and with it the lock of a row that is being published. */
const ROW_LOCK_MS = 60_000

async function open() {
  const { topics } = await uniqueTopics()
  const proxy = await forwardKafka()
  const publisher = createPublisher(createKafka([proxy.address], 'test', pino({ level: 'silent' })))
  onTestFinished(async () => {
    proxy.close()
    await publisher.stop()
  })
  const sent = async () => (await readTopic(topics.alerts)).map(({ key }) => key)
  return { topic: topics.alerts, proxy, publisher, sent }
}

/** As Temporal does: again until it is acknowledged. */
const untilTaken = (publisher: Publisher, topic: string, key: string) =>
  eventually(() => publisher.send(topic, [{ key, value: key }]).catch(() => undefined), `${key} is taken`, 120_000)

test('what was acknowledged is in the log, also when many send at once and answers are lost', async () => {
  const { topic, proxy, publisher, sent } = await open()
  await publisher.send(topic, [{ key: 'before', value: '' }])
  proxy.mute()
  const keys = Array.from({ length: 12 }, (_, i) => `key-${i}`)
  const acknowledged = Promise.all(keys.map((key) => untilTaken(publisher, topic, key)))
  // Written, but the answer was swallowed.
  await eventually(async () => (await sent()).length > 1, 'the first of them is written')
  proxy.restore()
  const answers = await acknowledged

  const log = await readTopic(topic)
  for (const [i, key] of keys.entries()) {
    const [answer] = answers[i] ?? []
    expect(log.find(({ offset }) => offset === Number(answer?.baseOffset))?.key).toBe(key)
  }
  expect(new Set(log.map(({ key }) => key))).toEqual(new Set(['before', ...keys]))
})

test('a send into a Kafka that hangs ends while the rows that it publishes are still locked, and nothing of it comes later', async () => {
  const { topic, proxy, publisher, sent } = await open()
  await publisher.send(topic, [{ key: 'before', value: '' }])
  proxy.swallow()
  const begun = performance.now()
  const failed = await Promise.all(
    ['a', 'b', 'c'].map((key) =>
      publisher.send(topic, [{ key, value: '' }]).then(
        () => 'taken',
        () => 'given up',
      ),
    ),
  )
  expect(failed).toEqual(['given up', 'given up', 'given up'])
  expect(performance.now() - begun).toBeLessThan(ROW_LOCK_MS)
  proxy.restore()
  await untilTaken(publisher, topic, 'after')
  await untilTaken(publisher, topic, 'later')
  expect((await sent()).filter((key) => !['before', 'after', 'later'].includes(key))).toEqual([])
}, 240_000)
