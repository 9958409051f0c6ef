/** Keys, events, a gateway on topics of its own, and a Kafka that can be taken away. */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ClientId,
  type CredentialId,
  encodeEvent,
  type KeyEventType,
  type KeyRecord,
  newKeyId,
  newToken,
  randomBase62,
  type TopicNames,
  tokenSha256,
} from '@keyturn/contract'
import { createGateway, createLog, type Gateway, type GatewayOptions, type Log } from '@keyturn/gateway'
import { Partitioners, type Producer } from 'kafkajs'
import { inject, onTestFinished } from 'vitest'
import { type Forwarder, forwardKafka as startKafkaForwarder } from '../support/forwarder.ts'
import { kafkaClient, uniqueTopics } from '../support/servers.ts'

export const NOW = Date.parse('2026-01-15T12:00:00.000Z')

export interface IssuedKey {
  readonly token: string
  readonly record: KeyRecord
}

export function issueKey(overrides: Partial<KeyRecord> = {}): IssuedKey {
  const keyId = overrides.keyId ?? newKeyId()
  const token = newToken({ brand: 'kt', environment: overrides.environment ?? 'prod', keyId })
  const record: KeyRecord = {
    keyId,
    credentialId: `crd_${randomBase62(16)}` as CredentialId,
    clientId: `cli_${randomBase62(16)}` as ClientId,
    environment: 'prod',
    scopes: ['orders:read'],
    version: 1,
    state: 'active',
    revision: 1,
    verifier: { kind: 'bearer', sha256: tokenSha256(token) },
    notBefore: '2026-01-01T00:00:00.000Z',
    ...overrides,
  }
  return { token, record }
}

export interface Message {
  readonly key: string | null
  readonly value: string | null
  readonly partition?: number
}

export const keyMessage = (record: KeyRecord, type: KeyEventType = 'keyturn.key.introduced'): Message => ({
  key: record.keyId,
  value: encodeEvent({ type, source: '/test', subject: record.keyId, time: new Date(NOW), data: record }),
})

export interface Bench {
  /** Before the names of its topics, for KEYTURN_TOPIC_PREFIX. */
  readonly prefix: string
  readonly topics: TopicNames
  readonly log: Log
  /** Everything logged, as text. */
  logged(): string
  publish(...messages: Message[]): Promise<void>
  publishTo(topic: string, messages: readonly Message[]): Promise<void>
  /** A gateway that is not started yet, with a clock of its own; stopped when the test is over. */
  gateway(options?: Partial<GatewayOptions>): Gateway
}

/** Topics of its own for one test. */
export async function openBench(): Promise<Bench> {
  const { prefix, topics } = await uniqueTopics()
  let text = ''
  const log = createLog('trace', {
    write: (line: string) => {
      text += line
    },
  })
  let producer: Producer | undefined
  const gateways: Gateway[] = []
  onTestFinished(async () => {
    await Promise.all(gateways.map((gateway) => gateway.stop(1_000)))
    await producer?.disconnect()
  })
  const publishTo = async (topic: string, messages: readonly Message[]): Promise<void> => {
    if (producer === undefined) {
      producer = kafkaClient().producer({
        idempotent: true,
        createPartitioner: Partitioners.DefaultPartitioner,
        allowAutoTopicCreation: false,
      })
      await producer.connect()
    }
    await producer.send({ topic, acks: -1, messages: [...messages] })
  }
  return {
    prefix,
    topics,
    log,
    logged: () => text,
    publishTo,
    publish: (...messages) => publishTo(topics.keys, messages),
    gateway(options = {}) {
      const gateway = createGateway({
        kafka: { brokers: inject('kafkaBrokers'), topics },
        gatewayId: `gw-${gateways.length + 1}`,
        region: 'test',
        environments: ['prod'],
        failClosed: [],
        stalenessMs: 3_000,
        heartbeatMs: 500,
        usageWindowMs: 60_000,
        log,
        ...options,
      })
      gateways.push(gateway)
      return gateway
    },
  }
}

/** Waits until something holds: asks again every few milliseconds, and fails with the last answer at the deadline. */
export async function eventually<T>(
  what: string,
  read: () => T | Promise<T>,
  holds: (value: T) => boolean,
  withinMs = 60_000,
): Promise<T> {
  const until = performance.now() + withinMs
  for (;;) {
    const value = await read()
    if (holds(value)) return value
    if (performance.now() > until)
      throw new Error(`not within ${withinMs} ms: ${what}; the last answer was ${JSON.stringify(value)}`)
    await sleep(10)
  }
}

/** A Kafka for one test that can be taken away. */
export async function forwardKafka(): Promise<Forwarder> {
  const forwarder = await startKafkaForwarder()
  onTestFinished(forwarder.close)
  return forwarder
}

/** A clock that the test sets. */
export class TestClock {
  now: number
  readonly read = (): number => this.now

  constructor(now = NOW) {
    this.now = now
  }
}

export const bearer = (token: string, userAgent?: string) => ({
  headers: { authorization: `Bearer ${token}`, ...(userAgent === undefined ? {} : { 'user-agent': userAgent }) },
  address: '192.0.2.7',
})
