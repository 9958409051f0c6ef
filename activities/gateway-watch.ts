/**
 * Follows the gateways topic: which gateways there are, and what each has applied. A gateway that has announced itself is
 * waited for until it leaves (a tombstone of its own) or an operator declares it gone (a tombstone of ours).
 */
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { decodeGatewayEvent, type GatewayReport, type TopicNames } from '@keyturn/contract'
import type { Consumer, Kafka, KafkaMessage } from 'kafkajs'
import type { Logger } from 'pino'
import { ensureTopics } from '../infra/topics.ts'
import { createTopicEnds, type TopicEnds } from './kafka.ts'

/** A tombstone with this header is an operator's word, not the gateway's own goodbye. */
export const DECLARED_GONE = 'keyturn-declared-gone'

/** How many reports of a gateway are remembered: enough to find the first one past an offset, a moment later. */
const REMEMBERED_REPORTS = 64
const AGAIN_AFTER_MS = 1_000

export interface WatchedGateway {
  readonly latest: GatewayReport
  /** Oldest first; the last is `latest`. */
  readonly reports: readonly GatewayReport[]
}

export interface GatewayWatch {
  /** Reads the topic to its end as of now, and answers with the gateways that have announced themselves by then. */
  readToEnd(signal?: AbortSignal): Promise<ReadonlyMap<string, WatchedGateway>>
  /** The gateways as far as the topic has been read, which may be long ago: when Kafka is away. */
  known(): ReadonlyMap<string, WatchedGateway>
  /**
   * The latest time, as far as the topic has been read, at which a gateway ended without a goodbye: it may have counted usage
   * that it reported to nobody. A gateway says goodbye when all its usage is reported, and only then.
   */
  lostUsageAt(): Date | undefined
  /** Calls back after each change, until the returned function is called. */
  onChange(listener: () => void): () => void
  stop(): Promise<void>
}

/** Begins to follow them, and tries until Kafka is there. */
export function watchGateways(kafka: Kafka, topics: TopicNames, log: Logger): GatewayWatch {
  const topic = topics.gateways
  const stopping = new AbortController()
  const gateways: Gateways = new Map()
  const listeners = new Set<() => void>()
  let next = 0n
  let lostAt: number | undefined
  const ends = createTopicEnds(kafka)
  const following = follow(kafka, topics, log, stopping.signal, (message) => {
    const lost = apply(gateways, message, log)
    if (lost !== undefined) lostAt = Math.max(lost, lostAt ?? lost)
    next = BigInt(message.offset) + 1n
    for (const listener of listeners) listener()
  })

  const onChange = (listener: () => void): (() => void) => {
    listeners.add(listener)
    return () => listeners.delete(listener)
  }
  return {
    onChange,
    known: () => gateways,
    lostUsageAt: () => (lostAt === undefined ? undefined : new Date(lostAt)),
    async readToEnd(signal) {
      const end = await endOffset(ends, topic)
      await until(() => next >= end, onChange, signal)
      return gateways
    },
    async stop() {
      stopping.abort()
      await Promise.allSettled([following.then((consumer) => consumer?.disconnect()), ends.stop()])
    },
  }
}

/** Resolves once something holds, looking after each change. Rejects with the signal's reason. */
export function until(met: () => boolean, onChange: (listener: () => void) => () => void, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (met()) return resolve()
    if (signal?.aborted === true) return reject(signal.reason)
    const done = (finish: () => void) => {
      forget()
      signal?.removeEventListener('abort', abort)
      finish()
    }
    const abort = () => done(() => reject(signal?.reason))
    const forget = onChange(() => {
      if (met()) done(resolve)
    })
    signal?.addEventListener('abort', abort)
  })
}

type Gateways = Map<string, { latest: GatewayReport; reports: GatewayReport[] }>

/** @returns when usage was lost, if this message shows that it was */
function apply(gateways: Gateways, { key, value, headers, timestamp }: KafkaMessage, log: Logger): number | undefined {
  const gatewayId = key?.toString('utf8') ?? ''
  const known = gateways.get(gatewayId)
  if (value === null) {
    gateways.delete(gatewayId)
    return known !== undefined && headers?.[DECLARED_GONE] !== undefined ? Number(timestamp) : undefined
  }
  const decoded = decodeGatewayEvent(value)
  if (!decoded.ok || decoded.event.data.gatewayId !== gatewayId) {
    log.warn({ gatewayId, flaw: decoded.ok ? 'wrong-key' : decoded.flaw }, 'skipped a gateway report that makes no sense')
    return undefined
  }
  const report = decoded.event.data
  const reports = known !== undefined && continues(known.latest, report) ? known.reports : []
  reports.push(report)
  if (reports.length > REMEMBERED_REPORTS) reports.shift()
  gateways.set(gatewayId, { latest: report, reports })
  const isNewStart = known !== undefined && known.latest.incarnation !== report.incarnation
  return isNewStart ? Date.parse(report.at) : undefined
}

/**
 * Whether what a gateway said before still holds. A new incarnation has an empty cache; and positions that have gone back are
 * those of another log: the keys topic was lost and made anew, and the offsets of the old one mean nothing in it.
 */
const continues = (before: GatewayReport, { incarnation, positions }: GatewayReport): boolean =>
  before.incarnation === incarnation &&
  Object.entries(before.positions).every(([partition, position]) => (positions[partition] ?? 0) >= position)

async function follow(
  kafka: Kafka,
  topics: TopicNames,
  log: Logger,
  signal: AbortSignal,
  each: (message: KafkaMessage) => void,
): Promise<Consumer | undefined> {
  while (!signal.aborted) {
    const consumer = kafka.consumer({
      groupId: `keyturn-watch-${randomUUID()}`,
      maxWaitTimeInMs: 500,
      retry: { restartOnFailure: async () => true },
    })
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      log.error({ err: payload.error, restarts: payload.restart }, 'stopped hearing from the gateways')
    })
    try {
      // Whoever follows a topic that is not there makes one that is like none of ours.
      await ensureTopics(kafka, topics)
      await consumer.connect()
      await begin(consumer, topics.gateways, each)
      return consumer
    } catch (error) {
      await consumer.disconnect().catch(() => {})
      log.warn({ err: error }, 'the gateways can not be heard yet; trying again')
      await setTimeout(AGAIN_AFTER_MS, undefined, { signal }).catch(() => {})
    }
  }
  return undefined
}

/** One partition: the order of all reports is the order of this topic. Reads from the beginning, in a group of its own. */
async function begin(consumer: Consumer, topic: string, each: (message: KafkaMessage) => void): Promise<void> {
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch, isStale }) => {
      for (const message of batch.messages) {
        if (isStale()) return
        each(message)
      }
    },
  })
}

/** The offset that the next report will get. */
async function endOffset(ends: TopicEnds, topic: string): Promise<bigint> {
  const [partition, ...more] = await ends.of(topic)
  if (partition === undefined || more.length > 0) throw new Error(`the topic ${topic} must have exactly one partition`)
  // Nothing between low and high: all there was has been deleted, and there is nothing to read.
  return partition.low === partition.high ? 0n : BigInt(partition.high)
}
