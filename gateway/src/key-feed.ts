/**
 * Keeps the cache equal to the keys topic and knows how fresh it is (G3, G4).
 *
 * A gateway announces itself before it starts this feed; the first ends that the feed asks for are therefore later than the
 * announcement, and whoever publishes a key after them finds the gateway on the list of those to wait for.
 */
import type { Kafka } from 'kafkajs'
import { type Freshness, FreshnessTracker, type Offsets } from './freshness.ts'
import type { KeyCache } from './key-cache.ts'
import { KeyConsumer } from './key-consumer.ts'
import { createKeyMessages, type SkipReason } from './key-messages.ts'
import { createThrottle, type Log } from './log.ts'
import { backOff, pause, within } from './wait.ts'

/**
 * After so long without Kafka the log is read again from its start. A tombstone is kept for a day (`delete.retention.ms`):
 * whoever was away for longer may never see it, nor the event that it replaced.
 */
const RELOAD_AFTER_MS = 12 * 3_600_000

export interface KeyFeedOptions {
  readonly kafka: Kafka
  readonly topic: string
  readonly gatewayId: string
  readonly cache: KeyCache
  readonly stalenessMs: number
  readonly clock: () => number
  readonly log: Log
  /** Positions or freshness have changed. */
  readonly onChange: () => void
  readonly reloadAfterMs?: number | undefined
}

interface PartitionEnds {
  readonly low: number
  readonly high: number
}

export class KeyFeed {
  readonly #options: KeyFeedOptions
  readonly #messages
  readonly #consumer: KeyConsumer
  readonly #tracker: FreshnessTracker
  readonly #throttle = createThrottle()
  readonly #stopped = new AbortController()
  readonly #loaded: Promise<void>
  #resolveLoaded: () => void = () => undefined
  #ends: ReadonlyMap<number, number> = new Map()
  #told: Freshness = 'loading'
  #reload: 'no' | 'sweep' | 'keep' = 'no'
  #progressAt = performance.now()
  #caughtUpAt: number | undefined
  #running: Promise<void>[] = []

  constructor(options: KeyFeedOptions) {
    this.#options = options
    this.#tracker = new FreshnessTracker(options.stalenessMs)
    this.#messages = createKeyMessages(options.cache, options.log)
    this.#loaded = new Promise((resolve) => {
      this.#resolveLoaded = resolve
    })
    this.#consumer = new KeyConsumer({
      kafka: options.kafka,
      topic: options.topic,
      gatewayId: options.gatewayId,
      log: options.log,
      onMessage: (message) => void this.#messages.apply(message),
      onProgress: () => this.#progress(),
      onAnotherLog: () => this.#readAgain('the keys topic is another one than was read before; reading it from its start'),
    })
  }

  /** Resolves when everything is applied that was on the topic when the feed started. */
  get loaded(): Promise<void> {
    return this.#loaded
  }

  /** Per partition of the keys topic, the offset that is applied next. */
  get positions(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.#consumer.certain].sort(([a], [b]) => a - b).map(([p, o]) => [String(p), o]))
  }

  get freshAsOf(): number | undefined {
    return this.#tracker.asOf
  }

  get skipped(): ReadonlyMap<SkipReason, number> {
    return this.#messages.skipped
  }

  get applied(): number {
    return this.#messages.applied
  }

  get consumerRestarts(): number {
    return this.#consumer.restarts
  }

  /** Messages between the positions and the ends last heard of. */
  get lag(): number {
    let lag = 0
    for (const [partition, end] of this.#ends) lag += Math.max(0, end - (this.#consumer.positions.get(partition) ?? 0))
    return lag
  }

  freshness(now: number): Freshness {
    return this.#tracker.judge(now)
  }

  /** To be called once the gateway has announced itself. */
  start(): void {
    this.#consumer.start()
    this.#running = [this.#askForEver(), this.#watch()]
  }

  async stop(): Promise<void> {
    this.#stopped.abort()
    await Promise.all([this.#consumer.stop(), ...this.#running])
  }

  async #askForEver(): Promise<void> {
    const { kafka, topic, stalenessMs, clock, log } = this.#options
    const everyMs = stalenessMs / 6
    const patienceMs = Math.min(10_000, Math.max(2_000, stalenessMs / 2))
    let admin: ReturnType<Kafka['admin']> | undefined
    let failures = 0
    while (!this.#stopped.signal.aborted) {
      const askedAt = clock()
      // What is applied while the answer is on its way may well be past it.
      const positions = new Map(this.#consumer.positions)
      try {
        const asking = admin ?? kafka.admin({ retry: { retries: 1, initialRetryTime: 100, maxRetryTime: 500 } })
        if (admin === undefined) {
          admin = asking
          await within(patienceMs, 'connecting to Kafka', asking.connect())
        }
        const offsets = await within(patienceMs, 'asking for the ends of the keys topic', asking.fetchTopicOffsets(topic))
        if (offsets.length === 0) throw new Error(`topic ${topic} has no partition`)
        failures = 0
        const ends = new Map(offsets.map((o) => [o.partition, { low: Number(o.low), high: Number(o.high) }]))
        this.#answer(askedAt, positions, ends)
      } catch (error) {
        if (this.#stopped.signal.aborted) break
        failures += 1
        this.#throttle('ends', () => log.warn({ err: error }, 'Kafka does not tell the ends of the keys topic; asking again'))
        const old = admin
        admin = undefined
        if (old !== undefined) await within(2_000, 'closing', old.disconnect()).catch(() => undefined)
      }
      await pause(failures === 0 ? everyMs : Math.min(everyMs, backOff(failures - 1)), this.#stopped.signal)
    }
    if (admin !== undefined) await within(2_000, 'closing', admin.disconnect()).catch(() => undefined)
  }

  #answer(askedAt: number, positions: Offsets, ends: ReadonlyMap<number, PartitionEnds>): void {
    this.#ends = new Map([...ends].map(([partition, { high }]) => [partition, high]))
    const { log, cache, reloadAfterMs = RELOAD_AFTER_MS } = this.#options
    if ([...positions].some(([partition, position]) => position > (ends.get(partition)?.high ?? 0))) {
      this.#readAgain('the keys topic ends before what was read of it; reading it from its start')
    } else if (this.#away() > reloadAfterMs && this.#reload === 'no') {
      log.warn('too long without Kafka to have seen every tombstone; reading the keys topic from its start')
      this.#reload = 'sweep'
      cache.beginReload()
      this.#rewind()
    }
    // A partition with nothing in it has no message that could move its position.
    for (const [partition, { low, high }] of ends) if (low === high) this.#consumer.skipTo(partition, high)
    this.#tracker.asked(askedAt, this.#ends)
    this.#settle()
    this.#nudgeConsumer(ends)
  }

  /** Deleted and made again, or restored from a copy. What the cache knows is all there is until it is republished. */
  #readAgain(why: string): void {
    this.#options.log.error({ positions: this.positions }, why)
    this.#reload = 'keep'
    this.#rewind()
  }

  #rewind(): void {
    this.#consumer.rewind()
    this.#tracker.drop()
  }

  /** Kafka's own time decides when a tombstone goes, so this is never the injected clock. */
  #away(): number {
    return this.#caughtUpAt === undefined ? 0 : Date.now() - this.#caughtUpAt
  }

  /** New partitions are only seen by a new consumer; so is everything by one that hangs. */
  #nudgeConsumer(ends: ReadonlyMap<number, PartitionEnds>): void {
    const { log, stalenessMs } = this.#options
    const { assigned } = this.#consumer
    const unread = [...ends.keys()].filter((partition) => !assigned.has(partition))
    if (assigned.size > 0 && unread.length > 0) {
      log.info({ partitions: unread }, 'the keys topic has new partitions')
      this.#consumer.restart()
    } else if (this.lag > 0 && performance.now() - this.#progressAt > Math.max(stalenessMs, 10_000)) {
      log.error({ lag: this.lag }, 'the key consumer makes no progress; starting a new one')
      this.#progressAt = performance.now()
      this.#consumer.restart()
    }
  }

  #progress(): void {
    this.#progressAt = performance.now()
    this.#settle()
    this.#options.onChange()
  }

  #settle(): void {
    const wasLoading = this.#caughtUpAt === undefined
    if (this.lag === 0) this.#progressAt = performance.now()
    if (!this.#tracker.reached(this.#consumer.certain)) return
    this.#caughtUpAt = Date.now()
    const { cache, log } = this.#options
    if (this.#reload !== 'no') {
      const gone = this.#reload === 'sweep' ? cache.endReload() : 0
      log.info({ keys: cache.size, gone }, 'the keys topic has been read again')
      this.#reload = 'no'
    }
    if (wasLoading) {
      log.info({ keys: cache.size, positions: this.positions }, 'all keys are loaded')
      this.#resolveLoaded()
    }
    this.#tell()
  }

  /** Says once, loudly, that the gateway has turned stale; and that it has recovered. */
  #tell(): void {
    const { clock, log, stalenessMs, onChange } = this.#options
    const now = this.freshness(clock())
    if (now === this.#told) return
    const asOf = this.#tracker.asOf
    const about = { freshAsOf: asOf === undefined ? undefined : new Date(asOf).toISOString(), boundMs: stalenessMs }
    if (now === 'stale') log.error(about, 'STALE: nothing heard from Kafka within the bound; serving what was known then')
    else if (this.#told === 'stale') log.info(about, 'fresh again: caught up with Kafka')
    this.#told = now
    onChange()
  }

  async #watch(): Promise<void> {
    const everyMs = Math.min(1_000, this.#options.stalenessMs / 6)
    while (!this.#stopped.signal.aborted) {
      await pause(everyMs, this.#stopped.signal)
      if (!this.#stopped.signal.aborted) this.#tell()
    }
  }
}
