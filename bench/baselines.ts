/** What Temporal and Kafka take by themselves: one workflow with one activity that does nothing, and one message from kafkajs to kafkajs. */
import { randomBase62 } from '@keyturn/contract'
import { Partitioners } from 'kafkajs'
import type { BenchHouse } from './house.ts'
import { inParallel } from './rotations-under-way.ts'
import { type Distribution, distribution } from './statistics.ts'

/** From the start of a one-activity workflow to its result, in milliseconds. */
export async function oneActivity({ temporal, peerTaskQueue }: BenchHouse): Promise<number> {
  const start = performance.now()
  await temporal.workflow.execute('oneActivity', { taskQueue: peerTaskQueue, workflowId: `bench/${randomBase62(16)}` })
  return performance.now() - start
}

/** How many one-activity workflows end in a minute, of `count` of them with so many under way at once. */
export async function oneActivityBurst(house: BenchHouse, count: number, atOnce: number): Promise<number> {
  const start = performance.now()
  await inParallel(count, atOnce, () => oneActivity(house))
  return (count / (performance.now() - start)) * 60_000
}

export interface ProduceToConsume {
  /** From before `send` of one message, acknowledged by all replicas, to the consumer's having it. In milliseconds. */
  once(): Promise<number>
  close(): Promise<void>
}

/** A producer and a consumer as kafkajs is at its fastest: no offset commits, sockets without delay. */
export async function openProduceToConsume({ kafka, prefix }: BenchHouse): Promise<ProduceToConsume> {
  const topic = `${prefix}peer`
  const admin = kafka.admin()
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  const consumer = kafka.consumer({ groupId: topic, maxWaitTimeInMs: 500 })
  await Promise.all([admin.connect(), producer.connect(), consumer.connect()])
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: 1 }] })
  let arrived: (value: string) => void = () => {}
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      for (const { value } of batch.messages) arrived(value?.toString() ?? '')
    },
  })
  const once = async (): Promise<number> => {
    const value = randomBase62(300)
    const consumed = new Promise<number>((resolve) => {
      arrived = (seen) => {
        if (seen === value) resolve(performance.now())
      }
    })
    const start = performance.now()
    await producer.send({ topic, acks: -1, messages: [{ key: 'peer', value }] })
    return (await consumed) - start
  }
  // The first one waits for the consumer to join.
  await once()
  return {
    once,
    async close() {
      await Promise.all([consumer.disconnect(), producer.disconnect()])
      await admin.deleteTopics({ topics: [topic] })
      await admin.disconnect()
    },
  }
}

export interface BaselineFigures {
  readonly oneActivityMs: Distribution
  readonly produceToConsumeMs: Distribution
}

export async function measureBaselines(house: BenchHouse, { samples = 100 } = {}): Promise<BaselineFigures> {
  const kafka = await openProduceToConsume(house)
  const workflows: number[] = []
  const messages: number[] = []
  for (let i = 0; i < samples; i++) {
    workflows.push(await oneActivity(house))
    messages.push(await kafka.once())
  }
  await kafka.close()
  return { oneActivityMs: distribution(workflows), produceToConsumeMs: distribution(messages) }
}
