import { randomUUID } from 'node:crypto'
import type { KafkaMessage } from 'kafkajs'
import { type ControlKafka, createTopicEnds } from './kafka.ts'

/** Reads a topic from its beginning to its end as of now. Rejects when Kafka does not answer. */
export async function readTopicOnce(kafka: ControlKafka, topic: string, each: (message: KafkaMessage) => void): Promise<void> {
  const topicEnds = createTopicEnds(kafka)
  const ends = await topicEnds.of(topic).finally(() => topicEnds.stop())
  const open = new Map(
    ends.filter(({ low, high }) => Number(high) > Number(low)).map(({ partition, high }) => [partition, Number(high)]),
  )
  if (open.size === 0) return
  const consumer = kafka.consumer({
    groupId: `keyturn-check-${randomUUID()}`,
    maxWaitTimeInMs: 200,
    retry: { retries: 3, restartOnFailure: async () => false },
  })
  try {
    await consumer.connect()
    await consumer.subscribe({ topic, fromBeginning: true })
    await new Promise<void>((resolve, reject) => {
      consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error))
      // Told of batches, too, of which compaction has left nothing.
      consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload: { partition, lastOffset } }) => {
        if (lastOffset !== null && Number(lastOffset) + 1 >= (open.get(partition) ?? 0)) open.delete(partition)
        if (open.size === 0) resolve()
      })
      consumer
        .run({
          autoCommit: false,
          eachBatch: async ({ batch }) => {
            for (const message of batch.messages) each(message)
          },
        })
        .catch(reject)
    })
  } finally {
    await consumer.disconnect().catch(() => {})
  }
}
