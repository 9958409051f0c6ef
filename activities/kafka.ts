/** The control plane's connection to Kafka: small messages at once (no Nagle), the library's words in our log. */
import { connect as connectPlain, type Socket } from 'node:net'
import {
  type Admin,
  Kafka,
  type KafkaConfig,
  KafkaJSProtocolError,
  type LogEntry,
  logLevel,
  type Message,
  Partitioners,
  type Producer,
  type RecordMetadata,
} from 'kafkajs'
import type { Logger } from 'pino'

export function createKafka(brokers: readonly string[], clientId: string, log: Logger): Kafka {
  const config: KafkaConfig = {
    brokers: [...brokers],
    clientId,
    connectionTimeout: 5_000,
    requestTimeout: 10_000,
    retry: { initialRetryTime: 100, maxRetryTime: 2_000, retries: 8 },
    socketFactory: ({ host, port, onConnect }): Socket => connectPlain({ host, port, noDelay: true }, onConnect),
    logLevel: logLevel.WARN,
    logCreator:
      () =>
      ({ namespace, level, log: entry }: LogEntry) => {
        const { message, timestamp: _timestamp, logger: _logger, ...fields } = entry
        const say = { namespace, broker: fields['broker'], error: fields['error'] }
        // Said of every idempotent producer with bounded retries; createPublisher answers it.
        if (message.startsWith('Limiting retries for the idempotent producer')) return
        if (level <= logLevel.ERROR) log.error(say, message)
        else if (level === logLevel.WARN) log.warn(say, message)
        else log.debug(say, message)
      },
  }
  return new Kafka(config)
}

export interface Publisher {
  /** Sends messages, acknowledged by all in-sync replicas. Rejects when Kafka does not take them; the next call begins afresh. */
  send(topic: string, messages: Message[]): Promise<RecordMetadata[]>
  stop(): Promise<void>
}

/**
 * An idempotent producer that is replaced after a failure. A producer that gave up does not know whether its last message was
 * written; if it was, the broker would take the next one, of the same sequence number, for a repetition, and drop it.
 */
export function createPublisher(kafka: Kafka): Publisher {
  let producer: Promise<Producer> | undefined
  const connect = async (): Promise<Producer> => {
    const fresh = kafka.producer({ idempotent: true, maxInFlightRequests: 1, createPartitioner: Partitioners.DefaultPartitioner })
    await fresh.connect()
    return fresh
  }
  const drop = async (failed: Promise<Producer> | undefined): Promise<void> => {
    if (producer === failed) producer = undefined
    await failed?.then((gone) => gone.disconnect()).catch(() => {})
  }
  return {
    async send(topic, messages) {
      producer ??= connect()
      const used = producer
      try {
        return await (await used).send({ topic, acks: -1, messages })
      } catch (error) {
        await drop(used)
        throw error
      }
    },
    stop: () => drop(producer),
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
  error instanceof KafkaJSProtocolError && /LEADER|REPLICA_NOT_AVAILABLE/.test(error.type)
