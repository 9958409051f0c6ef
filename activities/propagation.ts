/**
 * Publishing keys, and the receipts. A key's state is published under the lock of its row, so that the order in the log is
 * the order of revisions; a receipt is complete when the watermark of every live gateway is past the event.
 */
import {
  CLOUDEVENTS_MEDIA_TYPE,
  encodeEvent,
  type GatewayReceipt,
  type KeyEventType,
  type KeyId,
  type Receipt,
  type TopicNames,
} from '@keyturn/contract'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import { getKey, type KeyRow, toKeyRecord } from '../registry/keys.ts'
import { publishKey, publishUnpublished } from '../registry/publishing.ts'
import { DECLARED_GONE, type GatewayWatch, until, watchGateways } from './gateway-watch.ts'
import { type ControlKafka, createPublisher, createTopicEnds, type Publisher } from './kafka.ts'
import { createRegistryGuard } from './registry-guard.ts'

/** Where a key event lies in the log. Of a key that has ended, it is its end that is published, whatever else has changed since. */
export interface Publication {
  readonly keyId: KeyId
  readonly event: KeyEventType
  readonly revision: number
  readonly partition: number
  readonly offset: string
  readonly publishedAt: Date
}

/** Where many key events end in the log: per partition the offset that a gateway has come to when it has applied them all. */
export interface BulkPublication {
  readonly marks: Readonly<Record<string, number>>
  readonly publishedAt: Date
}

/** Who has applied something, and who has not. */
export type Confirmation = Pick<Receipt, 'gateways' | 'unconfirmed'>

export interface WaitOptions {
  /** How long to wait; the receipt names whoever is missing then. 0 looks once. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

export interface GatewayStatus {
  readonly gatewayId: string
  readonly region: string
  readonly at: string
  readonly freshness: string
  readonly keys: number
  /** Whether it has been heard of within the last 10 s. */
  readonly live: boolean
}

export interface Propagation {
  /** Begins to publish a key that has just been changed. It may fail: `publish`, which must follow, takes it over or begins anew. */
  publishAhead(keyId: KeyId): void
  /** Publishes the present state of a key. Twice does no harm: the highest revision wins. */
  publish(keyId: KeyId): Promise<Publication>
  waitForReceipt(publication: Publication, options: WaitOptions): Promise<Receipt>
  /** Publishes those of many keys whose last change has not been published. */
  publishMany(keyIds: readonly KeyId[]): Promise<BulkPublication>
  /** One receipt for all that `publishMany` has published. */
  waitForAll(publication: BulkPublication, options: WaitOptions): Promise<Confirmation>
  /** Whether the keys topic still is the log that something was published to; a lost one has been made anew, and is shorter. */
  holds(publication: BulkPublication): Promise<boolean>
  /** By id. */
  gateways(): Promise<GatewayStatus[]>
  /** Takes a gateway off the list of those waited for. False when there is none of that name. */
  declareGone(gatewayId: string): Promise<boolean>
  /** What the collector and others derive from the reports. */
  readonly watch: GatewayWatch
  stop(): Promise<void>
}

export interface PropagationOptions {
  readonly kafka: ControlKafka
  readonly topics: TopicNames
  readonly db: Database
  readonly log: Logger
  /** Stands as the events' `source`: `/keyturn/worker`. */
  readonly source: string
}

const LIVE_WITHIN_MS = 10_000
/** How many keys one transaction of `publishMany` locks. All are sent before it notes that they are: what gateways wait for comes first. */
const PAGE = 10_000
/** What another worker's `publish` has followed is forgotten some time. */
const MOST_AHEAD = 1_000

export function createPropagation({ kafka, topics, db, log, source }: PropagationOptions): Propagation {
  const publisher = createPublisher(kafka)
  const watch = watchGateways(kafka, topics, log)
  const ends = createTopicEnds(kafka)
  const guard = createRegistryGuard({ db, kafka, topics, log })
  guard.checkSoon()
  const publishNow = (keyId: KeyId): Promise<Publication> =>
    guard.run(() => publishKey(db, keyId, (row, told) => sendKey(publisher, topics.keys, source, row, told)))
  const ahead = new Map<KeyId, Promise<Publication | undefined>>()
  return {
    watch,
    publishAhead(keyId) {
      const sent = publishNow(keyId).catch((error: unknown) => {
        log.info({ err: error, keyId }, 'a key was not published at once; the next step does it')
        return undefined
      })
      ahead.delete(keyId)
      ahead.set(keyId, sent)
      const [oldest] = ahead.keys()
      if (ahead.size > MOST_AHEAD && oldest !== undefined) ahead.delete(oldest)
    },
    async publish(keyId) {
      const sent = await ahead.get(keyId)
      ahead.delete(keyId)
      return sent !== undefined && sent.revision === (await getKey(db, keyId))?.revision ? sent : publishNow(keyId)
    },
    async waitForReceipt({ keyId, event, revision, partition, offset, publishedAt }, options) {
      const marks = { [partition]: Number(offset) + 1 }
      const confirmation = await waitForAll(watch, { marks, publishedAt }, options)
      return { keyId, event, revision, publishedAt: publishedAt.toISOString(), ...confirmation }
    },
    async publishMany(keyIds) {
      const publishedAt = new Date()
      for (let from = 0; from < keyIds.length; from += PAGE) {
        const page = keyIds.slice(from, from + PAGE)
        await guard.run(() => publishUnpublished(db, page, (rows) => sendKeys(publisher, topics.keys, source, rows)))
      }
      // Whoever published them: the topic ends after them all.
      const partitions = await ends.of(topics.keys)
      return { marks: Object.fromEntries(partitions.map(({ partition, high }) => [partition, Number(high)])), publishedAt }
    },
    waitForAll: (publication, options) => waitForAll(watch, publication, options),
    async holds({ marks }) {
      return (await ends.of(topics.keys)).every(({ partition, high }) => Number(high) >= (marks[partition] ?? 0))
    },
    async gateways() {
      const known = await watch.readToEnd()
      return [...known.values()]
        .map(({ latest }) => ({
          gatewayId: latest.gatewayId,
          region: latest.region,
          at: latest.at,
          freshness: latest.freshness,
          keys: latest.keys,
          live: Date.now() - Date.parse(latest.at) < LIVE_WITHIN_MS,
        }))
        .sort((a, b) => (a.gatewayId < b.gatewayId ? -1 : 1))
    },
    async declareGone(gatewayId) {
      if (!(await watch.readToEnd()).has(gatewayId)) return false
      await publisher.send(topics.gateways, [{ key: gatewayId, value: null, headers: { [DECLARED_GONE]: 'true' } }])
      return true
    },
    async stop() {
      await Promise.all(ahead.values())
      await Promise.allSettled([watch.stop(), publisher.stop(), ends.stop()])
    },
  }
}

/** One key event as a Kafka message; a destroyed key is a tombstone. */
export function keyMessage(
  source: string,
  row: KeyRow,
  time: Date,
): { key: string; value: string | null; headers: Record<string, string> } {
  const value =
    row.state === 'destroyed'
      ? null
      : encodeEvent({
          id: `${row.keyId}/${row.revision}`,
          type: row.event,
          source,
          subject: row.keyId,
          time,
          data: toKeyRecord(row),
        })
  return { key: row.keyId, value, headers: { 'content-type': CLOUDEVENTS_MEDIA_TYPE } }
}

async function sendKey(
  publisher: Publisher,
  topic: string,
  source: string,
  row: KeyRow,
  { event, revision }: Pick<Publication, 'event' | 'revision'>,
): Promise<Publication> {
  const publishedAt = new Date()
  const [sent] = await publisher.send(topic, [keyMessage(source, row, publishedAt)])
  if (sent?.baseOffset === undefined) throw new Error(`Kafka did not say where it put the event of key ${row.keyId}`)
  return { keyId: row.keyId, event, revision, partition: sent.partition, offset: sent.baseOffset, publishedAt }
}

/** What one request to Kafka may hold, whichever partitions its messages go to: a broker takes a mebibyte for each. */
const MOST_BYTES = 900_000
/** What a message takes beside its value: key, header, and lengths. */
const OVERHEAD_BYTES = 120

/** One request after the other: none may follow when the rows are locked no longer. */
async function sendKeys(publisher: Publisher, topic: string, source: string, rows: readonly KeyRow[]): Promise<void> {
  const at = new Date()
  let batch: ReturnType<typeof keyMessage>[] = []
  let bytes = 0
  for (const message of rows.map((row) => keyMessage(source, row, at))) {
    const length = Buffer.byteLength(message.value ?? '') + OVERHEAD_BYTES
    if (bytes + length > MOST_BYTES) {
      await publisher.send(topic, batch)
      batch = []
      bytes = 0
    }
    batch.push(message)
    bytes += length
  }
  await publisher.send(topic, batch)
}

async function waitForAll(
  watch: GatewayWatch,
  { marks, publishedAt }: BulkPublication,
  { timeoutMs, signal }: WaitOptions,
): Promise<Confirmation> {
  // Whoever announces itself after this look reads the event before it serves; so only these are waited for. One that leaves
  // is not waited for while it is gone; when it comes back, or had never left, it is.
  const known = await watch.readToEnd(signal)
  const awaited = [...known.keys()].sort()
  const applied = new Map<string, { readonly incarnation: string; readonly line: GatewayReceipt }>()
  const hasApplied = (gatewayId: string): boolean => {
    const gateway = known.get(gatewayId)
    if (gateway === undefined || applied.get(gatewayId)?.incarnation === gateway.latest.incarnation) return true
    const first = gateway.reports.find(({ positions }) =>
      Object.entries(marks).every(([partition, mark]) => (positions[partition] ?? 0) >= mark),
    )
    if (first === undefined) return false
    const ms = Math.max(0, Date.parse(first.at) - publishedAt.getTime())
    applied.set(gatewayId, { incarnation: first.incarnation, line: { gatewayId, appliedAt: first.at, ms } })
    return true
  }
  const missing = (): string[] => awaited.filter((gatewayId) => !hasApplied(gatewayId))
  const complete = (): boolean => missing().length === 0
  const enough = AbortSignal.timeout(timeoutMs)
  try {
    await until(complete, watch.onChange, signal === undefined ? enough : AbortSignal.any([enough, signal]))
  } catch (error) {
    if (!enough.aborted) throw error
  }
  const unconfirmed = missing()
  return {
    gateways: [...applied.values()].map(({ line }) => line).filter(({ gatewayId }) => !unconfirmed.includes(gatewayId)),
    unconfirmed,
  }
}
