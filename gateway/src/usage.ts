/**
 * Who used which key: counted in memory at the moment of each decision, sent once per window, lost by nothing but the death of
 * the process. A window that was cut is frozen: it is sent again, with the same event ids, until Kafka has acknowledged it,
 * while later counts gather in the one after it.
 */
import {
  CLOUDEVENTS_MEDIA_TYPE,
  encodeEvent,
  type GatewayId,
  type KeyId,
  type TopicNames,
  USAGE_REPORT_TYPE,
  type UsageOutcome,
} from '@keyturn/contract'
import type { OutgoingMessage, Publisher } from './kafka.ts'
import { createThrottle, type Log } from './log.ts'
import { type SourceOfRequest, UsageWindow } from './usage-window.ts'
import { backOff, pause } from './wait.ts'

export interface UsageOptions {
  readonly publisher: Publisher
  readonly topics: TopicNames
  readonly gatewayId: GatewayId
  readonly incarnation: string
  readonly windowMs: number
  readonly clock: () => number
  readonly log: Log
  /** Counts have been acknowledged. */
  readonly onFlushed: () => void
}

/** Well below a broker's `message.max.bytes` of 1 MB. */
const CHUNK_CHARACTERS = 300_000

/** A window on its way: what the broker has not acknowledged yet. Messages are made when they are sent, a chunk at a time. */
interface Frozen {
  readonly chunks: Generator<OutgoingMessage[]>
  unsent: OutgoingMessage[] | undefined
  readonly through: number
}

export class Usage {
  readonly #options: UsageOptions
  readonly #stopped = new AbortController()
  readonly #throttle = createThrottle()
  #window: UsageWindow
  #frozen: Frozen | undefined
  #sequence = 0
  #serial = 0
  #through: number | undefined
  #latest: number
  #flushing: Promise<void> = Promise.resolve()
  #running: Promise<void> | undefined
  #failed = 0
  #reported = 0

  constructor(options: UsageOptions) {
    this.#options = options
    this.#latest = options.clock()
    this.#window = new UsageWindow(this.#latest)
  }

  /** Every request answered before this time is counted in what the broker has acknowledged. ms since the epoch. */
  get through(): number | undefined {
    return this.#through
  }

  /** Flushes that failed; nothing is lost by them. */
  get failed(): number {
    return this.#failed
  }

  /** Reports that were acknowledged. */
  get reported(): number {
    return this.#reported
  }

  /** Keys with counts that no broker has acknowledged. */
  get pending(): number {
    return this.#window.size + (this.#frozen?.unsent?.length ?? 0)
  }

  /** Counts one request. To be called in the same turn as the decision, so that no cut comes between them. */
  count(keyId: KeyId, outcome: UsageOutcome, source: SourceOfRequest | undefined): void {
    this.#window.count(keyId, outcome, this.#now(), source)
  }

  start(): void {
    this.#running ??= this.#flushForEver()
  }

  /** Resolves when everything counted so far is acknowledged; rejects when Kafka does not take it now (nothing is lost). */
  flush(): Promise<void> {
    const turn = this.#flushing.then(async () => {
      if (this.#frozen !== undefined) await this.#deliver(this.#frozen)
      this.#frozen = this.#cut()
      await this.#deliver(this.#frozen)
    })
    this.#flushing = turn.catch(() => undefined)
    return turn
  }

  /** Stops the windows. `flush` still works. */
  async stop(): Promise<void> {
    this.#stopped.abort()
    await this.#running
  }

  /** Time never runs backwards here: a count after a cut is never dated before it. */
  #now(): number {
    this.#latest = Math.max(this.#latest, this.#options.clock())
    return this.#latest
  }

  #cut(): Frozen {
    const through = this.#now()
    const window = this.#window
    this.#window = new UsageWindow(through)
    this.#sequence += 1
    return { chunks: this.#chunks(window, this.#sequence, through), unsent: undefined, through }
  }

  *#chunks(window: UsageWindow, sequence: number, through: number): Generator<OutgoingMessage[]> {
    const { gatewayId, incarnation } = this.#options
    let chunk: OutgoingMessage[] = []
    let characters = 0
    for (const report of window.reports(gatewayId, through)) {
      this.#serial += 1
      const value = encodeEvent({
        id: `${gatewayId}/${incarnation}/${sequence}/${report.keyId}`,
        type: USAGE_REPORT_TYPE,
        source: `/keyturn/gateways/${gatewayId}`,
        subject: report.keyId,
        time: new Date(through),
        data: { ...report, incarnation, serial: this.#serial },
      })
      chunk.push({ key: report.keyId, value, headers: { 'content-type': CLOUDEVENTS_MEDIA_TYPE } })
      characters += value.length
      if (characters < CHUNK_CHARACTERS) continue
      yield chunk
      chunk = []
      characters = 0
    }
    if (chunk.length > 0) yield chunk
  }

  async #deliver(frozen: Frozen): Promise<void> {
    const { publisher, topics, onFlushed } = this.#options
    let sent = 0
    for (;;) {
      frozen.unsent ??= frozen.chunks.next().value ?? undefined
      if (frozen.unsent === undefined) break
      try {
        await publisher.send(topics.usage, frozen.unsent)
      } catch (error) {
        this.#failed += 1
        throw error
      }
      sent += frozen.unsent.length
      frozen.unsent = undefined
    }
    this.#reported += sent
    this.#through = frozen.through
    this.#frozen = undefined
    if (sent > 0) onFlushed()
  }

  async #flushForEver(): Promise<void> {
    const { windowMs, log } = this.#options
    let failures = 0
    while (!this.#stopped.signal.aborted) {
      await pause(failures === 0 ? windowMs : Math.min(windowMs, backOff(failures - 1)), this.#stopped.signal)
      if (this.#stopped.signal.aborted) return
      try {
        await this.flush()
        failures = 0
      } catch (error) {
        failures += 1
        this.#throttle('usage', (more) => {
          log.warn({ err: error, more, pending: this.pending }, 'usage could not be reported; counting on and trying again')
        })
      }
    }
  }
}
