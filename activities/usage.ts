/**
 * The usage collector: from usage reports to the evidence that monitoring stands on. It counts each report exactly once, says
 * up to when the use of every key is known, and signals a rotation when a fact that matters to it has come true.
 */
import { type CredentialId, decodeUsageEvent, type EvidenceFact, type RotationId, type TopicNames } from '@keyturn/contract'
import type { Kafka, KafkaMessage } from 'kafkajs'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import {
  applyUsage,
  type CollectedReport,
  rotationsToTell,
  setCompleteThrough,
  tellOnce,
  usageOffsets,
} from '../registry/usage.ts'
import type { GatewayWatch } from './gateway-watch.ts'
import { consumeInGroup, createTopicEnds, type TopicEnds } from './kafka.ts'
import { type RaiseAlert, raiseUsageAlerts } from './usage-alerts.ts'

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
  readonly alert: RaiseAlert
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
  const { kafka, topics, db, watch, log, tell, alert } = options
  const clock = options.clock ?? (() => new Date())
  const counts = { reports: 0, skipped: 0 }
  const ends = createTopicEnds(kafka)
  const lost = 'stopped collecting usage'
  // The registry knows what has been counted; the group's own offsets only save reading it all again.
  const consumer = await consumeInGroup(
    kafka,
    { topic: topics.usage, group: GROUP, lost, log },
    async ({ partition, messages }) => {
      const last = messages.at(-1)
      if (last === undefined) return
      const reports: CollectedReport[] = []
      const flaws: string[] = []
      for (const message of messages) {
        const read = readReport(message)
        if (typeof read === 'string') flaws.push(read)
        else reports.push(read)
      }
      counts.skipped += flaws.length
      if (flaws.length > 0) {
        const where = { partition, from: messages[0]?.offset, to: last.offset, skipped: flaws.length, flaws: [...new Set(flaws)] }
        log.warn(where, 'skipped usage reports that make no sense')
      }
      const batch = { partition, nextOffset: String(BigInt(last.offset) + 1n), reports }
      const counted = await applyUsage(db, batch)
      counts.reports += reports.length
      // Passed over: another collector has counted it, or else the count is that of a topic that was lost and made anew.
      if (counted !== batch.nextOffset && (await isBeyond(ends, topics.usage, partition, counted))) {
        log.error({ partition }, 'the usage topic is another one than was collected before: collecting it from its beginning')
        await applyUsage(db, { ...batch, notSince: counted })
      }
    },
  )

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
    await setCompleteThrough(db, complete, silent.sort(), watch.lostUsageAt())
    for (const due of await rotationsToTell(db)) await tellOnce(db, due, () => tell(due, due.fact))
    await raiseUsageAlerts(db, clock(), alert)
  }

  return {
    sweep,
    counts,
    async stop() {
      await Promise.allSettled([consumer.disconnect(), ends.stop()])
    },
  }
}

/** A report, or why it is none. */
function readReport({ key, value, offset }: KafkaMessage): CollectedReport | string {
  const decoded = value === null ? undefined : decodeUsageEvent(value)
  if (decoded === undefined) return 'tombstone'
  if (!decoded.ok) return decoded.flaw
  const report = decoded.event.data
  return key?.toString('utf8') === report.keyId ? { offset, report } : 'wrong-key'
}

/** Whether an offset, known before, lies beyond the end of a partition. */
async function isBeyond(topics: TopicEnds, topic: string, partition: number, offset: string): Promise<boolean> {
  const end = (await topics.of(topic)).find((each) => each.partition === partition)
  return end !== undefined && BigInt(offset) > BigInt(end.high)
}

/**
 * Whether everything that lay in the topic a moment ago has been counted; waits a little for it. When more had been counted
 * than there is, the topic was lost and made anew, and nothing of the new one is counted yet.
 */
async function collected(topics: TopicEnds, topic: string, db: Database): Promise<boolean> {
  const before = await usageOffsets(db)
  const ends = (await topics.of(topic)).filter(({ low, high }) => low !== high)
  if (ends.some(({ partition, high }) => BigInt(before.get(partition) ?? 0) > BigInt(high))) return false
  const giveUp = Date.now() + CATCH_UP_MS
  for (;;) {
    const counted = await usageOffsets(db)
    if (ends.every(({ partition, high }) => BigInt(counted.get(partition) ?? 0) >= BigInt(high))) return true
    if (Date.now() > giveUp) return false
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS))
  }
}
