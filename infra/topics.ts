/** Makes Keyturn's topics on a cluster, with the contract's settings. */
import { TOPIC_SETTINGS, type TopicName, type TopicNames } from '@keyturn/contract'
import type { Kafka } from 'kafkajs'

const MOST_REPLICAS = 3

/**
 * Makes the topics that are missing and waits until each has its leaders; those that exist stay as they are. Several processes
 * may call it at once. Topics are replicated to three brokers, or as many as there are; with three, two must have a write.
 */
export async function ensureTopics(kafka: Kafka, topics: TopicNames): Promise<void> {
  const admin = kafka.admin()
  await admin.connect()
  try {
    const existing = new Set(await admin.listTopics())
    const missing = (Object.keys(TOPIC_SETTINGS) as TopicName[]).filter((name) => !existing.has(topics[name]))
    if (missing.length === 0) return
    const { brokers } = await admin.describeCluster()
    const replicationFactor = Math.min(MOST_REPLICAS, brokers.length)
    const durable = replicationFactor === MOST_REPLICAS ? { 'min.insync.replicas': '2' } : {}
    await admin.createTopics({
      waitForLeaders: true,
      topics: missing.map((name) => {
        const { partitions, config } = TOPIC_SETTINGS[name]
        return {
          topic: topics[name],
          numPartitions: partitions,
          replicationFactor,
          configEntries: Object.entries({ ...config, ...durable }).map(([key, value]) => ({ name: key, value })),
        }
      }),
    })
  } finally {
    await admin.disconnect()
  }
}
