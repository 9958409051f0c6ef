/**
 * Reads every partition of the keys topic, for ever, and calls `onMessage` once per offset. When the consumer crashes, a new
 * one goes on from the positions reached. Each has a group of its own: nobody shares the partitions, and no dead member of
 * the same name is waited for.
 */
import { randomUUID } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Consumer, EachBatchPayload, Kafka, KafkaMessage } from 'kafkajs'
import type { KeyMessage } from './key-messages.ts'
import type { Log } from './log.ts'
import { backOff, pause, within } from './wait.ts'

/** A broker answers a fetch at once when there is something, and after this when there is not. */
const FETCH_WAIT_MS = 500
/** So many messages are applied before requests get their turn. */
const TURN = 256
/** A consumer that lived for so long did not fail at once. */
const SETTLED_MS = 10_000

export interface KeyConsumerOptions {
  readonly kafka: Kafka
  readonly topic: string
  readonly gatewayId: string
  readonly log: Log
  readonly onMessage: (message: KeyMessage) => void
  /** After each batch, once the positions have moved. */
  readonly onProgress: () => void
  /** What lies at a position is not what was read there: the topic was lost and made anew. */
  readonly onAnotherLog: () => void
}

/** Where a partition was left off, and by which message one knows it again. */
interface Mark {
  readonly offset: number
  readonly of: string
}

export class KeyConsumer {
  readonly #options: KeyConsumerOptions
  readonly #stopped = new AbortController()
  readonly #positions = new Map<number, number>()
  readonly #lastRead = new Map<number, Mark>()
  /** Partitions that were joined again and have not shown yet that they are what they were. */
  readonly #doubted = new Map<number, Mark>()
  #assigned: ReadonlySet<number> = new Set()
  #session = Symbol('session')
  #endSession: (() => void) | undefined
  #running: Promise<void> | undefined
  #restarts = 0

  constructor(options: KeyConsumerOptions) {
    this.#options = options
  }

  /** Per partition, the offset that is applied next: every event below it has been handed on. */
  get positions(): ReadonlyMap<number, number> {
    return this.#positions
  }

  /** The same, without partitions of which it is not certain at the moment that they still are the ones that were read. */
  get certain(): ReadonlyMap<number, number> {
    return new Map([...this.#positions].filter(([partition]) => !this.#doubted.has(partition)))
  }

  /** The partitions that are being read; none while there is no connection. */
  get assigned(): ReadonlySet<number> {
    return this.#assigned
  }

  /** How often a consumer had to be replaced. */
  get restarts(): number {
    return this.#restarts
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** There is nothing to read below this offset. Returns whether that is news. */
  skipTo(partition: number, offset: number): boolean {
    if (offset > (this.#doubted.get(partition)?.offset ?? offset)) this.#doubted.delete(partition)
    if (offset <= (this.#positions.get(partition) ?? -1)) return false
    this.#positions.set(partition, offset)
    return true
  }

  /** A new consumer, from the positions reached: it sees partitions that are new. */
  restart(): void {
    this.#endSession?.()
  }

  /** A new consumer, from the start of every partition. */
  rewind(): void {
    this.#session = Symbol('session')
    this.#positions.clear()
    this.#lastRead.clear()
    this.#doubted.clear()
    this.#endSession?.()
  }

  async stop(): Promise<void> {
    this.#stopped.abort()
    this.#endSession?.()
    await this.#running
  }

  async #run(): Promise<void> {
    let failures = 0
    while (!this.#stopped.signal.aborted) {
      const startedAt = performance.now()
      await this.#consume()
      if (this.#stopped.signal.aborted) return
      this.#restarts += 1
      failures = performance.now() - startedAt > SETTLED_MS ? 0 : failures + 1
      await pause(backOff(failures), this.#stopped.signal)
    }
  }

  /** Runs one consumer to its end. */
  async #consume(): Promise<void> {
    const { kafka, topic, gatewayId, log } = this.#options
    const session = Symbol('session')
    this.#session = session
    const current = (): boolean => this.#session === session
    const consumer = kafka.consumer({
      groupId: `keyturn-gateway-${gatewayId}-${randomUUID().slice(0, 8)}`,
      allowAutoTopicCreation: false,
      minBytes: 1,
      maxWaitTimeInMs: FETCH_WAIT_MS,
      sessionTimeout: 30_000,
      heartbeatInterval: 3_000,
      retry: { retries: 2, initialRetryTime: 100, maxRetryTime: 1_000, restartOnFailure: async () => false },
    })
    const ended = new Promise<void>((resolve) => {
      this.#endSession = resolve
      consumer.on(consumer.events.CRASH, ({ payload }) => {
        if (current()) log.error({ err: payload.error }, 'the key consumer crashed; a new one goes on from where it was')
        resolve()
      })
    })
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      if (!current()) return
      this.#assigned = new Set(payload.memberAssignment[topic] ?? [])
      this.#seek(consumer)
    })
    // Also told for batches in which compaction or transactions left nothing to hand on.
    consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => {
      if (!current() || payload.lastOffset === null) return
      if (this.skipTo(payload.partition, Number(payload.lastOffset) + 1)) this.#options.onProgress()
    })
    try {
      // Joining can hang for as long as a broker likes; an end that is asked for must not wait for it.
      const running = this.#join(consumer, current)
      await Promise.race([running.then(() => ended), ended])
    } catch (error) {
      log.warn({ err: error }, 'the key consumer can not connect to Kafka; it will try again')
    }
    this.#assigned = new Set()
    this.#endSession = undefined
    await within(3_000, 'closing the key consumer', consumer.disconnect()).catch(() => undefined)
  }

  async #join(consumer: Consumer, current: () => boolean): Promise<void> {
    await consumer.connect()
    await consumer.subscribe({ topic: this.#options.topic, fromBeginning: true })
    await consumer.run({ autoCommit: false, eachBatch: (payload) => this.#batch(payload, current) })
  }

  /** Goes on where it was left off, and reads the last message once more: it shows whether this is the same log. */
  #seek(consumer: Consumer): void {
    const { topic } = this.#options
    for (const [partition, position] of this.#positions) {
      if (!this.#assigned.has(partition)) continue
      const last = this.#lastRead.get(partition)
      if (last !== undefined) this.#doubted.set(partition, last)
      consumer.seek({ topic, partition, offset: String(last?.offset ?? position) })
    }
  }

  async #batch({ batch }: EachBatchPayload, current: () => boolean): Promise<void> {
    if (!current()) return
    const { partition, messages } = batch
    for (const [i, message] of messages.entries()) {
      if (!this.#read(partition, message)) return this.#options.onAnotherLog()
      const isLast = i === messages.length - 1
      if (isLast || i % TURN === TURN - 1) this.#lastRead.set(partition, markOf(message))
      if (isLast || i % TURN < TURN - 1) continue
      await nextTurn()
      if (!current()) return
    }
    this.#options.onProgress()
  }

  /** Hands a message on. False when it shows that this is another log than was read before. */
  #read(partition: number, message: KafkaMessage): boolean {
    const offset = Number(message.offset)
    const position = this.#positions.get(partition) ?? 0
    const expected = this.#doubted.get(partition)
    if (expected?.offset === offset && expected.of === markOf(message).of) {
      this.#doubted.delete(partition)
      return true
    }
    // What was read comes again, unasked or as something else: the offsets have begun anew.
    if (offset < position) return false
    // What compaction has removed shows nothing, and is not missed.
    this.#doubted.delete(partition)
    this.#options.onMessage({ partition, offset, key: message.key, value: message.value })
    this.#positions.set(partition, offset + 1)
    return true
  }
}

const markOf = ({ offset, timestamp, key }: KafkaMessage): Mark => ({
  offset: Number(offset),
  of: `${timestamp} ${key?.toString('base64') ?? ''}`,
})
