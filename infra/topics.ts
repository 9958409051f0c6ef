/** Makes Keyturn's topics on a cluster, with the contract's settings. */
import { TOPIC_SETTINGS, type TopicName, type TopicNames } from '@keyturn/contract'
import type { Admin, Kafka } from 'kafkajs'

const MOST_REPLICAS = 3
/** How long topics may take until every broker knows them and each partition has a leader. */
const READY_WITHIN_MS = 30_000
const LOOK_AGAIN_MS = 100
const NOT_YET: readonly unknown[] = ['UNKNOWN_TOPIC_OR_PARTITION', 'LEADER_NOT_AVAILABLE']

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
      // The library's own wait gives up when a busy broker says for a moment that it does not know the topic.
      waitForLeaders: false,
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
    await waitForLeaders(admin, Object.values(topics))
  } finally {
    await admin.disconnect()
  }
}

async function waitForLeaders(admin: Admin, topics: readonly string[]): Promise<void> {
  const giveUp = Date.now() + READY_WITHIN_MS
  for (;;) {
    try {
      const known = (await admin.fetchTopicMetadata({ topics: [...topics] })).topics
      if (known.every(({ partitions }) => partitions.length > 0 && partitions.every(({ leader }) => leader >= 0))) return
    } catch (error) {
      if (!NOT_YET.includes((error as { type?: unknown }).type) || Date.now() > giveUp) throw error
    }
    if (Date.now() > giveUp) throw new Error(`Kafka has made the topics, and names no leader for them: ${topics.join(', ')}`)
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS))
  }
}
