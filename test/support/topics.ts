import { type Alert, decodeAlertEvent, randomBase62, type TopicNames } from '@keyturn/contract'
import { createTopicEnds } from '../../activities/kafka.ts'
import { kafkaClient } from './servers.ts'

export interface ReadMessage {
  readonly partition: number
  readonly offset: number
  readonly key: string
  readonly value: string | undefined
}

/** Everything that is on a topic now. */
export async function readTopic(topic: string): Promise<ReadMessage[]> {
  const kafka = kafkaClient()
  const topicEnds = createTopicEnds(kafka)
  const ends = await topicEnds.of(topic)
  await topicEnds.stop()
  const open = new Map(ends.filter((e) => Number(e.high) > Number(e.low)).map((e) => [e.partition, Number(e.high)]))
  if (open.size === 0) return []
  const read: ReadMessage[] = []
  const consumer = kafka.consumer({ groupId: `test-${randomBase62(12)}`, maxWaitTimeInMs: 100 })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await new Promise<void>((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
    consumer
      .run({
        autoCommit: false,
        eachMessage: async ({ partition, message }) => {
          const offset = Number(message.offset)
          read.push({ partition, offset, key: String(message.key), value: message.value?.toString() })
          if (offset + 1 >= (open.get(partition) ?? 0)) open.delete(partition)
          if (open.size === 0) resolve()
        },
      })
      .catch(reject)
  })
  await consumer.disconnect()
  return read
}

/** The alerts about a credential so far. */
export async function alertsOf(topics: TopicNames, credentialId: string): Promise<Alert[]> {
  const messages = await readTopic(topics.alerts)
  return messages
    .filter(({ key }) => key === credentialId)
    .map(({ value = '' }) => {
      const decoded = decodeAlertEvent(value)
      if (!decoded.ok) throw new Error(`an alert that is none: ${decoded.flaw}`)
      return decoded.event.data
    })
}
