/** The control plane's connection to Kafka: small messages at once (no Nagle), the library's words in our log. */
import { connect as connectPlain } from 'node:net'
import { letKafkaIdle } from '@keyturn/contract/idle-kafka'
import {
  type Admin,
  type Batch,
  type Consumer,
  type ISocketFactory,
  Kafka,
  type KafkaConfig,
  type LogEntry,
  logLevel,
  type Message,
  Partitioners,
  type Producer,
  type RecordMetadata,
} from 'kafkajs'
// @ts-expect-error: kafkajs has no types for what is inside it.
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js'
import type { Logger } from 'pino'

letKafkaIdle(RequestQueue)

export interface ControlKafka extends Kafka {
  /** The same cluster over sockets that all end with the signal; none is opened after it. */
  until(signal: AbortSignal): Kafka
}

export function createKafka(brokers: readonly string[], clientId: string, log: Logger): ControlKafka {
  const connectedBy = (socketFactory: ISocketFactory, retries: number): Kafka => {
    const config: KafkaConfig = {
      brokers: [...brokers],
      clientId,
      connectionTimeout: 5_000,
      requestTimeout: 10_000,
      retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries },
      socketFactory,
      logLevel: logLevel.WARN,
      logCreator: logInto(log),
    }
    return new Kafka(config)
  }
  return Object.assign(
    connectedBy(({ host, port, onConnect }) => connectPlain({ host, port, noDelay: true }, onConnect), 8),
    {
      until: (signal: AbortSignal) =>
        connectedBy(({ host, port, onConnect }) => connectPlain({ host, port, noDelay: true, signal }, onConnect), 1),
    },
  )
}

const logInto =
  (log: Logger) =>
  () =>
  ({ namespace, level, log: entry }: LogEntry): void => {
    const { message, timestamp: _timestamp, logger: _logger, ...fields } = entry
    const say = { namespace, broker: fields['broker'], error: fields['error'] }
    // Said of every idempotent producer with bounded retries; createPublisher answers it.
    if (message.startsWith('Limiting retries for the idempotent producer')) return
    // A connection's errors are those of one try: whoever sent the request tries again, or says by itself that it gave up.
    if (level <= logLevel.ERROR && namespace !== 'Connection') log.error(say, message)
    else if (level <= logLevel.ERROR) log.warn(say, message)
    else if (level === logLevel.WARN) log.warn(say, message)
    else log.debug(say, message)
  }

/**
 * However Kafka hangs, a send ends within this time: rows are locked while their keys are published, and PostgreSQL ends a
 * transaction that idles for a minute.
 */
const SEND_MS = 20_000
const ATTEMPTS = 2
const PAUSE_MS = 200
const GOODBYE_MS = 3_000
const LATE = 'Kafka did not answer in time'

export interface Publisher {
  /**
   * Sends messages, acknowledged by all in-sync replicas. Rejects when Kafka does not take them in time: then they may have
   * been written or not, and nothing of them is sent later.
   */
  send(topic: string, messages: Message[]): Promise<RecordMetadata[]>
  stop(): Promise<void>
}

interface Line {
  readonly producer: Producer
  readonly connected: Promise<void>
  readonly end: AbortController
}

/**
 * An idempotent producer that is thrown away after every failure, with its sockets. It does not know then whether its last
 * message was written; if it was, the broker would take the next one, of the same sequence number, for a repetition, and drop it.
 * For the same reason sends go one after the other: none may follow a failed one on the same producer.
 */
export function createPublisher(kafka: ControlKafka): Publisher {
  let line: Line | undefined
  let turn: Promise<unknown> = Promise.resolve()

  const open = (): Line => {
    const end = new AbortController()
    const producer = kafka.until(end.signal).producer({
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      createPartitioner: Partitioners.DefaultPartitioner,
      retry: { retries: 1 },
    })
    return { producer, connected: producer.connect(), end }
  }
  const attempt = async (topic: string, messages: Message[], giveUpAt: number): Promise<RecordMetadata[]> => {
    line ??= open()
    const { producer, connected, end } = line
    try {
      return await within(
        giveUpAt - performance.now(),
        connected.then(() => producer.send({ topic, acks: -1, messages })),
      )
    } catch (error) {
      line = undefined
      end.abort()
      producer.disconnect().catch(() => {})
      throw error
    }
  }
  const deliver = async (topic: string, messages: Message[], giveUpAt: number): Promise<RecordMetadata[]> => {
    for (let tries = 1; ; tries++) {
      // Those before it may have used its time up.
      if (performance.now() > giveUpAt) throw new Error(LATE)
      try {
        return await attempt(topic, messages, giveUpAt)
      } catch (error) {
        if (tries === ATTEMPTS || performance.now() + PAUSE_MS > giveUpAt) throw error
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
      }
    }
  }
  return {
    send(topic, messages) {
      const giveUpAt = performance.now() + SEND_MS
      const sent = turn.then(() => deliver(topic, messages, giveUpAt))
      turn = sent.catch(() => {})
      return sent
    },
    async stop() {
      await turn
      await within(GOODBYE_MS, line?.producer.disconnect() ?? Promise.resolve()).catch(() => {})
      line?.end.abort()
    },
  }
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(LATE)), Math.max(0, ms))
  })
  work.catch(() => {})
  try {
    return await Promise.race([late, work])
  } finally {
    clearTimeout(timer)
  }
}

export interface PartitionEnds {
  readonly partition: number
  /** The oldest offset that is still there. */
  readonly low: string
  /** The offset that the next message will get. */
  readonly high: string
}

export interface TopicEnds {
  /** Where each partition of a topic begins and ends now. Rejects when Kafka does not say within a few attempts. */
  of(topic: string): Promise<PartitionEnds[]>
  stop(): Promise<void>
}

const ENDS_ATTEMPTS = 10
const ENDS_PAUSE_MS = 200

/** Asks for the ends of topics, each time afresh after a failure: the library keeps asking a broker that leads no more. */
export function createTopicEnds(kafka: Kafka): TopicEnds {
  let admin: Promise<Admin> | undefined
  const connect = async (): Promise<Admin> => {
    const fresh = kafka.admin()
    await fresh.connect()
    return fresh
  }
  const drop = async (failed: Promise<Admin> | undefined): Promise<void> => {
    if (admin === failed) admin = undefined
    await failed?.then((gone) => gone.disconnect()).catch(() => {})
  }
  return {
    async of(topic) {
      for (let attempt = 1; ; attempt++) {
        admin ??= connect()
        const used = admin
        try {
          return await (await used).fetchTopicOffsets(topic)
        } catch (error) {
          await drop(used)
          if (attempt === ENDS_ATTEMPTS || !betweenLeaders(error)) throw error
          await new Promise((resolve) => setTimeout(resolve, ENDS_PAUSE_MS))
        }
      }
    },
    stop: () => drop(admin),
  }
}

/** Kafka's own word that another broker leads a partition, or none yet; the library takes it for final. */
const betweenLeaders = (error: unknown): boolean =>
  error instanceof Error && /LEADER|REPLICA_NOT_AVAILABLE/.test(String((error as { type?: unknown }).type))

export interface GroupOptions {
  /** With its prefix, which the group's name gets too. */
  readonly topic: string
  readonly group: string
  /** What the log says when the consumer crashes; it restarts. */
  readonly lost: string
  readonly log: Logger
}

/** Reads a topic from its beginning; all who do so in a group share its partitions. A batch that throws comes again. */
export async function consumeInGroup(
  kafka: Kafka,
  { topic, group, lost, log }: GroupOptions,
  each: (batch: Batch) => Promise<void>,
): Promise<Consumer> {
  const consumer = kafka.consumer({
    groupId: topic.slice(0, topic.lastIndexOf('keyturn.')) + group,
    maxWaitTimeInMs: 500,
    retry: { restartOnFailure: async () => true },
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => log.error({ err: payload.error, restarts: payload.restart }, lost))
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    eachBatch: async ({ batch, heartbeat }) => {
      await each(batch)
      await heartbeat()
    },
  })
  return consumer
}
