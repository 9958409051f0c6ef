/** How long a gateway takes to load keys from Kafka, beside reading the same topic with kafkajs and throwing everything away. */
import { encodeEvent, randomBase62, TOPIC_SETTINGS, type TopicNames, topicNames } from '@keyturn/contract'
import { createGateway, createLog } from '@keyturn/gateway'
import { type Admin, type Kafka, Partitioners } from 'kafkajs'
import { createKafka } from '../activities/kafka.ts'
import { createLog as createControlLog } from '../infra/log.ts'
import { recordOf, tokenOf } from './keys.ts'
import { settledMemory } from './memory.ts'
import { median } from './statistics.ts'

const CHUNK = 1_000
const NEEDED = ['keys', 'gateways', 'usage'] as const

export interface LoadFigures {
  readonly keys: number
  readonly rounds: number
  /** Milliseconds from `start()` to ready: the announcement, the question for the ends, and every key applied. */
  readonly readyMs: number
  /** Milliseconds from connecting to the last message. */
  readonly discardMs: number
  /** Median over the rounds of the ratio in each. */
  readonly ratio: number
  /** What the loaded keys take, on the heap and beside it: of the first load, before which there was nothing. */
  readonly bytes: number
}

export async function measureLoad(brokers: readonly string[], { keys = 1_000_000, rounds = 3 } = {}): Promise<LoadFigures> {
  const kafka = createKafka(brokers, 'bench', createControlLog('bench', 'error'))
  const topics = topicNames(`bench-${randomBase62(6)}.`)
  const admin = kafka.admin()
  await admin.connect()
  try {
    await publishKeys(kafka, admin, topics, keys)
    const ours: number[] = []
    let bytes: number | undefined
    const peers: number[] = []
    for (let round = -1; round < rounds; round++) {
      const both = [
        async () => {
          const loaded = await load(brokers, topics, keys)
          ours.push(loaded.ms)
          bytes ??= loaded.bytes
        },
        async () => peers.push(await discard(kafka, topics.keys, keys)),
      ]
      for (const measure of round % 2 === 0 ? both : both.reverse()) await measure()
    }
    // The first round only warms up.
    ours.shift()
    peers.shift()
    return {
      keys,
      rounds,
      readyMs: median(ours),
      discardMs: median(peers),
      ratio: median(ours.map((ms, i) => ms / (peers[i] ?? ms))),
      bytes: bytes ?? 0,
    }
  } finally {
    await admin.deleteTopics({ topics: NEEDED.map((name) => topics[name]) }).catch(() => {})
    await admin.disconnect()
  }
}

async function publishKeys(kafka: Kafka, admin: Admin, topics: TopicNames, keys: number): Promise<void> {
  await admin.createTopics({
    waitForLeaders: true,
    topics: NEEDED.map((name) => ({ topic: topics[name], numPartitions: TOPIC_SETTINGS[name].partitions })),
  })
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  for (let first = 0; first < keys; first += CHUNK) {
    const messages = Array.from({ length: Math.min(CHUNK, keys - first) }, (_, i) => {
      const data = recordOf(first + i, tokenOf(first + i))
      const time = new Date()
      const value = encodeEvent({ type: 'keyturn.key.introduced', source: '/bench', subject: data.keyId, time, data })
      return { key: data.keyId, value }
    })
    await producer.send({ topic: topics.keys, messages })
  }
  await producer.disconnect()
}

async function load(brokers: readonly string[], topics: TopicNames, keys: number): Promise<{ ms: number; bytes: number }> {
  const before = await settledMemory()
  const gateway = createGateway({
    kafka: { brokers, topics },
    gatewayId: 'bench',
    region: 'bench',
    environments: ['prod'],
    failClosed: [],
    stalenessMs: 30_000,
    heartbeatMs: 3_000,
    usageWindowMs: 5_000,
    log: createLog('error'),
  })
  try {
    const start = performance.now()
    await gateway.start()
    const ms = performance.now() - start
    if (gateway.cache.size !== keys) throw new Error(`the bench is wrong: ${gateway.cache.size} of ${keys} keys were loaded`)
    return { ms, bytes: (await settledMemory()) - before }
  } finally {
    await gateway.stop()
  }
}

async function discard(kafka: Kafka, topic: string, keys: number): Promise<number> {
  const consumer = kafka.consumer({ groupId: `bench-${randomBase62(8)}`, minBytes: 1, maxWaitTimeInMs: 500 })
  let seen = 0
  const start = performance.now()
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const ms = await new Promise<number>((resolve, reject) => {
    consumer
      .run({
        autoCommit: false,
        eachBatch: async ({ batch }) => {
          seen += batch.messages.length
          if (seen >= keys) resolve(performance.now() - start)
        },
      })
      .catch(reject)
  })
  await consumer.disconnect()
  return ms
}
