/**
 * Follows the gateways topic: which gateways there are, and what each has applied. A gateway that has announced itself is
 * waited for until it leaves (a tombstone of its own) or an operator declares it gone (a tombstone of ours).
 */
import { randomUUID } from 'node:crypto'
import { decodeGatewayEvent, type GatewayReport } from '@keyturn/contract'
import type { Consumer, Kafka } from 'kafkajs'
import type { Logger } from 'pino'
import { createTopicEnds, type TopicEnds } from './kafka.ts'

/** How many reports of a gateway are remembered: enough to find the first one past an offset, a moment later. */
const REMEMBERED_REPORTS = 64

export interface WatchedGateway {
  readonly latest: GatewayReport
  /** Oldest first; the last is `latest`. */
  readonly reports: readonly GatewayReport[]
}

export interface GatewayWatch {
  /** Reads the topic to its end as of now, and answers with the gateways that have announced themselves by then. */
  readToEnd(signal?: AbortSignal): Promise<ReadonlyMap<string, WatchedGateway>>
  /** Calls back after each change, until the returned function is called. */
  onChange(listener: () => void): () => void
  stop(): Promise<void>
}

export async function watchGateways(kafka: Kafka, topic: string, log: Logger): Promise<GatewayWatch> {
  const gateways = new Map<string, { latest: GatewayReport; reports: GatewayReport[] }>()
  const listeners = new Set<() => void>()
  let next = 0n
  const ends = createTopicEnds(kafka)
  const consumer = await follow(kafka, topic, log, (offset, key, value) => {
    if (key !== undefined) apply(gateways, key, value, log)
    next = BigInt(offset) + 1n
    for (const listener of listeners) listener()
  })

  const onChange = (listener: () => void): (() => void) => {
    listeners.add(listener)
    return () => listeners.delete(listener)
  }
  return {
    onChange,
    async readToEnd(signal) {
      const end = await endOffset(ends, topic)
      await until(() => next >= end, onChange, signal)
      return gateways
    },
    async stop() {
      await Promise.allSettled([consumer.disconnect(), ends.stop()])
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

function apply(
  gateways: Map<string, { latest: GatewayReport; reports: GatewayReport[] }>,
  key: string,
  value: Buffer | null,
  log: Logger,
): void {
  if (value === null) {
    gateways.delete(key)
    return
  }
  const decoded = decodeGatewayEvent(value)
  if (!decoded.ok || decoded.event.data.gatewayId !== key) {
    log.warn({ gatewayId: key, flaw: decoded.ok ? 'wrong-key' : decoded.flaw }, 'skipped a gateway report that makes no sense')
    return
  }
  const report = decoded.event.data
  const known = gateways.get(key)
  const reports = known !== undefined && continues(known.latest, report) ? known.reports : []
  reports.push(report)
  if (reports.length > REMEMBERED_REPORTS) reports.shift()
  gateways.set(key, { latest: report, reports })
}

/**
 * Whether what a gateway said before still holds. A new incarnation has an empty cache; and positions that have gone back are
 * those of another log: the keys topic was lost and made anew, and the offsets of the old one mean nothing in it.
 */
const continues = (before: GatewayReport, { incarnation, positions }: GatewayReport): boolean =>
  before.incarnation === incarnation &&
  Object.entries(before.positions).every(([partition, position]) => (positions[partition] ?? 0) >= position)

/** One partition: the order of all reports is the order of this topic. Reads from the beginning, in a group of its own. */
async function follow(
  kafka: Kafka,
  topic: string,
  log: Logger,
  each: (offset: string, key: string | undefined, value: Buffer | null) => void,
): Promise<Consumer> {
  const consumer = kafka.consumer({
    groupId: `keyturn-watch-${randomUUID()}`,
    maxWaitTimeInMs: 500,
    retry: { restartOnFailure: async () => true },
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    log.error({ err: payload.error, restarts: payload.restart }, 'stopped hearing from the gateways')
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch, isStale }) => {
      for (const message of batch.messages) {
        if (isStale()) return
        each(message.offset, message.key?.toString('utf8'), message.value)
      }
    },
  })
  return consumer
}

/** The offset that the next report will get. */
async function endOffset(ends: TopicEnds, topic: string): Promise<bigint> {
  const [partition, ...more] = await ends.of(topic)
  if (partition === undefined || more.length > 0) throw new Error(`the topic ${topic} must have exactly one partition`)
  // Nothing between low and high: all there was has been deleted, and there is nothing to read.
  return partition.low === partition.high ? 0n : BigInt(partition.high)
}
