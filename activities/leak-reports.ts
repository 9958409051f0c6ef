/** The leaks topic: reports of whoever can write to Kafka, taken in like those that come over HTTP. */
import { decodeLeakEvent, type LeakId, type TopicNames } from '@keyturn/contract'
import type { Kafka } from 'kafkajs'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import { recordLeaks, type Sighting, toSighting } from '../registry/leak-intake.ts'
import { consumeInGroup } from './kafka.ts'

/** All listeners share the topic's partitions. */
const GROUP = 'keyturn-leak-listener'

export interface LeakReportsOptions {
  readonly kafka: Kafka
  readonly topics: TopicNames
  readonly db: Database
  /** Has leaks answered, in the background. */
  readonly respond: (leakIds: readonly LeakId[]) => void
  readonly clock: () => Date
  readonly log: Logger
}

export interface LeakReports {
  readonly counts: { readonly reports: number; readonly skipped: number }
  stop(): Promise<void>
}

/** A message that makes no sense is logged without its content, counted and skipped. Read again, a report changes nothing. */
export async function startLeakReports({ kafka, topics, db, respond, clock, log }: LeakReportsOptions): Promise<LeakReports> {
  const counts = { reports: 0, skipped: 0 }
  const lost = 'stopped hearing of leaks'
  const consumer = await consumeInGroup(
    kafka,
    { topic: topics.leaks, group: GROUP, lost, log },
    async ({ partition, messages }) => {
      const sightings: Sighting[] = []
      for (const { offset, value } of messages) {
        const decoded = value === null ? ({ ok: false, flaw: 'not-an-event' } as const) : decodeLeakEvent(value)
        if (decoded.ok) sightings.push(toSighting(decoded.event.data))
        else {
          counts.skipped += 1
          log.warn({ partition, offset, flaw: decoded.flaw }, 'skipped a leak report that makes no sense')
        }
      }
      const recorded = await recordLeaks(db, { sightings, reporter: 'kafka', at: clock() })
      counts.reports += sightings.length
      respond([...new Set(recorded.filter(({ status }) => status === 'open').map(({ leakId }) => leakId))])
    },
  )
  return {
    counts,
    async stop() {
      await consumer.disconnect()
    },
  }
}
