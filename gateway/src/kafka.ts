/** How a gateway speaks to Kafka: sockets without delay, kafkajs's log in ours, no topics made by accident. */
import { connect as connectTcp } from 'node:net'
import { addAbortSignal } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import type { TopicNames } from '@keyturn/contract'
import { letKafkaIdle } from '@keyturn/contract/idle-kafka'
import { type ISocketFactory, Kafka, type logCreator, logLevel, Partitioners } from 'kafkajs'
// @ts-expect-error: kafkajs has no types for what is inside it.
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js'
import type { Log } from './log.ts'
import { within } from './wait.ts'

letKafkaIdle(RequestQueue)

export interface KafkaAddress {
  readonly brokers: readonly string[]
  readonly topics: TopicNames
}

const KEEP_ALIVE_MS = 30_000

const socketFactory =
  (signal?: AbortSignal): ISocketFactory =>
  ({ host, port, ssl, onConnect }) => {
    // kafkajs passes `ssl` only when it is configured, whatever its types say.
    const secure: unknown = ssl
    const socket =
      secure === undefined || secure === null || secure === false
        ? connectTcp({ host, port }, onConnect)
        : connectTls({ host, port, servername: host, ...ssl }, onConnect)
    if (signal !== undefined) addAbortSignal(signal, socket)
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    socket.setNoDelay(true)
    return socket
  }

/** On purpose: what is sent again is sent by the loops around the producer, with ids that readers know it by. */
const LIMITED_RETRIES = 'Limiting retries for the idempotent producer'
/** Of connections that were ended here, on purpose. */
const ENDED_HERE = 'The operation was aborted'

/**
 * kafkajs calls every lost connection an error. For a gateway it is a warning: it serves on, and its own freshness says
 * loudly when that lasts.
 */
const logInto =
  (log: Log): logCreator =>
  () =>
  ({ level, namespace, log: entry }) => {
    if (entry.message.startsWith(LIMITED_RETRIES)) return
    const about = { kafkajs: namespace, broker: entry['broker'], groupId: entry['groupId'], error: entry['error'] }
    if (entry.message.endsWith(ENDED_HERE)) log.debug(about, `kafkajs: ${entry.message}`)
    else if (level === logLevel.ERROR) log.warn(about, `kafkajs: ${entry.message}`)
    else if (level === logLevel.WARN) log.info(about, `kafkajs: ${entry.message}`)
    else if (level === logLevel.INFO) log.debug(about, `kafkajs: ${entry.message}`)
    else log.trace(about, `kafkajs: ${entry.message}`)
  }

const KAFKAJS_LEVEL: Readonly<Record<string, logLevel>> = { trace: logLevel.DEBUG, debug: logLevel.INFO }

export interface GatewayKafka extends Kafka {
  /** The same cluster over sockets that all end with the signal; none is opened after it. */
  until(signal: AbortSignal): Kafka
}

/** Few and short retries inside kafkajs: the loops around it decide when to try again, and with a new connection. */
export function connectKafka(brokers: readonly string[], clientId: string, log: Log): GatewayKafka {
  const connected = (signal?: AbortSignal): Kafka =>
    new Kafka({
      brokers: [...brokers],
      clientId,
      socketFactory: socketFactory(signal),
      connectionTimeout: 3_000,
      requestTimeout: 10_000,
      retry: { retries: 2, initialRetryTime: 100, maxRetryTime: 1_000 },
      logCreator: logInto(log),
      logLevel: KAFKAJS_LEVEL[log.level] ?? logLevel.WARN,
    })
  return Object.assign(connected(), { until: connected })
}

export interface OutgoingMessage {
  readonly key: string
  /** Nothing means a tombstone. */
  readonly value: string | undefined
  readonly headers?: Readonly<Record<string, string>>
}

/** Writes to Kafka, acknowledged by all in-sync replicas. */
export interface Publisher {
  /**
   * Rejects when the broker did not acknowledge; then it is not known whether the messages were written, but nothing of them
   * is sent later. One call at a time.
   */
  send(topic: string, messages: readonly OutgoingMessage[]): Promise<void>
  close(): Promise<void>
}

const SEND_MS = 10_000

/**
 * A producer that is thrown away after every failure, with its sockets: the sequence numbers of an idempotent kafkajs producer
 * do not survive one, and what kafkajs goes on trying must not be written after what comes next (a report after the
 * tombstone would bring a gateway back that has left).
 */
export function createPublisher(kafka: GatewayKafka): Publisher {
  type Producer = ReturnType<Kafka['producer']>
  let line: { readonly producer: Producer; readonly connected: Promise<void>; readonly end: AbortController } | undefined
  const open = (): NonNullable<typeof line> => {
    const end = new AbortController()
    const producer = kafka.until(end.signal).producer({
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      createPartitioner: Partitioners.DefaultPartitioner,
      retry: { retries: 1, initialRetryTime: 100, maxRetryTime: 1_000 },
    })
    return { producer, connected: producer.connect(), end }
  }
  return {
    async send(topic, messages) {
      line ??= open()
      const { producer, connected, end } = line
      const written = async (): Promise<void> => {
        await connected
        await producer.send({
          topic,
          acks: -1,
          timeout: SEND_MS,
          messages: messages.map((m) => ({ key: m.key, value: m.value ?? null, headers: { ...m.headers } })),
        })
      }
      try {
        await within(SEND_MS, `writing to ${topic}`, written())
      } catch (error) {
        line = undefined
        end.abort()
        producer.disconnect().catch(() => undefined)
        throw error
      }
    },
    async close() {
      if (line === undefined) return
      const { producer, end } = line
      line = undefined
      await within(2_000, 'closing a connection to Kafka', producer.disconnect()).catch(() => undefined)
      end.abort()
    },
  }
}
