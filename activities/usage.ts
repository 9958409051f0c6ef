/**
 * The usage collector: from usage reports to the evidence that monitoring stands on. It counts each report exactly once, says
 * up to when the use of every key is known, and signals a rotation when a fact that matters to it has come true.
 */
import { type CredentialId, decodeUsageEvent, type EvidenceFact, type RotationId, type TopicNames } from '@keyturn/contract'
import type { Consumer, Kafka } from 'kafkajs'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import {
  applyUsage,
  type CollectedReport,
  dropUsageOffset,
  markTold,
  rotationsToTell,
  setCompleteThrough,
  usageOffsets,
} from '../registry/usage.ts'
import type { GatewayWatch } from './gateway-watch.ts'
import { createTopicEnds, type TopicEnds } from './kafka.ts'

/** All collectors share the partitions of the usage topic. */
const GROUP = 'keyturn-usage-collector'
/** A gateway whose usage is known no later than this long ago is named as silent. */
const SILENT_AFTER_MS = 15_000
const CATCH_UP_MS = 5_000
const LOOK_AGAIN_MS = 50

export interface ToldRotation {
  readonly rotationId: RotationId
  readonly credentialId: CredentialId
}

export interface CollectorOptions {
  readonly kafka: Kafka
  readonly topics: TopicNames
  readonly db: Database
  readonly watch: GatewayWatch
  /** Tells a credential's rotation; false when none is running. */
  readonly tell: (rotation: ToldRotation, fact: EvidenceFact) => Promise<boolean>
  readonly clock?: () => Date
  readonly log: Logger
}

export interface Collector {
  /** Brings the evidence up to date, and tells the rotations what has come true since. */
  sweep(): Promise<void>
  readonly counts: { readonly reports: number; readonly skipped: number }
  stop(): Promise<void>
}

export async function startCollector(options: CollectorOptions): Promise<Collector> {
  const { kafka, topics, db, watch, log, tell } = options
  const clock = options.clock ?? (() => new Date())
  const counts = { reports: 0, skipped: 0 }
  const ends = createTopicEnds(kafka)
  await dropForeignOffsets(ends, topics.usage, db, log)
  const consumer = await consume(kafka, topics, log, async (partition, messages) => {
    const last = messages.at(-1)
    if (last === undefined) return
    const reports: CollectedReport[] = []
    for (const { offset, value } of messages) {
      const decoded = value === null ? ({ ok: false, flaw: 'not-an-event' } as const) : decodeUsageEvent(value)
      if (decoded.ok) reports.push({ offset, report: decoded.event.data })
      else {
        counts.skipped += 1
        log.warn({ partition, offset, flaw: decoded.flaw }, 'skipped a usage report that makes no sense')
      }
    }
    await applyUsage(db, { partition, nextOffset: String(BigInt(last.offset) + 1n), reports })
    counts.reports += reports.length
  })

  async function sweep(): Promise<void> {
    const gateways = [...(await watch.readToEnd()).values()].map(({ latest }) => latest)
    const through = gateways.map(({ usageThrough }) => (usageThrough === undefined ? undefined : Date.parse(usageThrough)))
    const now = clock().getTime()
    const silent = gateways.filter((_, i) => now - (through[i] ?? 0) > SILENT_AFTER_MS).map(({ gatewayId }) => gatewayId)
    // What gateways say they have reported lies in the topic by now; it counts once it has been collected, too.
    if (!(await collected(ends, topics.usage, db))) {
      log.warn('the usage topic is not collected to its end yet: the evidence stays as it was')
      return
    }
    const known = through.filter((t) => t !== undefined)
    const complete = gateways.length > 0 && known.length === gateways.length ? new Date(Math.min(...known)) : undefined
    await setCompleteThrough(db, complete, silent.sort())
    for (const { rotationId, credentialId, fact } of await rotationsToTell(db)) {
      await tell({ rotationId, credentialId }, fact)
      await markTold(db, rotationId, fact)
    }
  }

  return {
    sweep,
    counts,
    async stop() {
      await Promise.allSettled([consumer.disconnect(), ends.stop()])
    },
  }
}

type Message = { readonly offset: string; readonly value: Buffer | null }

async function consume(
  kafka: Kafka,
  topics: TopicNames,
  log: Logger,
  apply: (partition: number, messages: readonly Message[]) => Promise<void>,
): Promise<Consumer> {
  const prefix = topics.usage.slice(0, topics.usage.lastIndexOf('keyturn.'))
  const consumer = kafka.consumer({
    groupId: prefix + GROUP,
    maxWaitTimeInMs: 500,
    retry: { restartOnFailure: async () => true },
  })
  consumer.on(consumer.events.CRASH, ({ payload }) =>
    log.error({ err: payload.error, restarts: payload.restart }, 'stopped collecting usage'),
  )
  await consumer.connect()
  await consumer.subscribe({ topics: [topics.usage], fromBeginning: true })
  await consumer.run({
    // The registry knows what has been counted; the group's own offsets only save reading it all again.
    eachBatchAutoResolve: true,
    eachBatch: async ({ batch, heartbeat }) => {
      await apply(batch.partition, batch.messages)
      await heartbeat()
    },
  })
  return consumer
}

/** Whether everything that lay in the topic a moment ago has been counted; waits a little for it. */
async function collected(topics: TopicEnds, topic: string, db: Database): Promise<boolean> {
  const ends = (await topics.of(topic)).filter(({ low, high }) => low !== high)
  const giveUp = Date.now() + CATCH_UP_MS
  for (;;) {
    const counted = await usageOffsets(db)
    if (ends.every(({ partition, high }) => BigInt(counted.get(partition) ?? 0) >= BigInt(high))) return true
    if (Date.now() > giveUp) return false
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS))
  }
}

/** After the topic was lost and made anew its offsets begin again: what the registry remembers of the old one must not hide the new. */
async function dropForeignOffsets(ends: TopicEnds, topic: string, db: Database, log: Logger): Promise<void> {
  const counted = await usageOffsets(db)
  for (const { partition, high } of await ends.of(topic)) {
    if (BigInt(counted.get(partition) ?? 0) <= BigInt(high)) continue
    log.error({ partition }, 'the usage topic is another one than was collected before: starting at its beginning')
    await dropUsageOffset(db, partition)
  }
}
