/**
 * Watermarks on the gateways topic: what this gateway has applied, and that it lives. Sent as soon as something was applied,
 * one at a time and always the newest state, and at least every heartbeat.
 */
import {
  CLOUDEVENTS_MEDIA_TYPE,
  encodeEvent,
  GATEWAY_REPORT_TYPE,
  type GatewayId,
  type GatewayReport,
  type TopicNames,
} from '@keyturn/contract'
import type { Publisher } from './kafka.ts'
import { createThrottle, type Log } from './log.ts'
import { backOff, pause, within } from './wait.ts'

export interface ReportsOptions {
  readonly publisher: Publisher
  readonly topics: TopicNames
  readonly gatewayId: GatewayId
  readonly heartbeatMs: number
  readonly clock: () => number
  readonly log: Log
  /** The state at this moment. */
  readonly describe: () => GatewayReport
}

export class Reports {
  readonly #options: ReportsOptions
  readonly #stopped = new AbortController()
  readonly #throttle = createThrottle()
  #wake: (() => void) | undefined
  #dirty = false
  #running: Promise<void> | undefined
  #failed = 0
  #announced = false
  #announcing: Promise<boolean> | undefined

  constructor(options: ReportsOptions) {
    this.#options = options
  }

  /** Reports that could not be sent. */
  get failed(): number {
    return this.#failed
  }

  /** Resolves when the broker has acknowledged that this gateway exists; tries for ever. False when it was stopped before that. */
  announce(): Promise<boolean> {
    this.#announcing ??= this.#announce()
    return this.#announcing
  }

  async #announce(): Promise<boolean> {
    let failures = 0
    while (!this.#stopped.signal.aborted) {
      if (await this.#send()) {
        this.#announced = true
        this.#running = this.#beat()
        return true
      }
      await pause(backOff(failures, 250, 2_000), this.#stopped.signal)
      failures += 1
    }
    return false
  }

  /** There is news: report it now, or right after the report that is under way. */
  poke(): void {
    this.#dirty = true
    this.#wake?.()
  }

  /**
   * Stops reporting and says with a tombstone that nobody has to wait for this gateway any more.
   * @param patienceMs how long to try
   * @param mayLeave false when something is left that this gateway alone knows: then it says nothing, and is missed
   */
  async stop(patienceMs: number, mayLeave: boolean): Promise<void> {
    const { publisher, topics, gatewayId, log } = this.#options
    const until = performance.now() + patienceMs
    this.#stopped.abort()
    this.#wake?.()
    // A report that is under way must not be written after the tombstone.
    const underWay = (async () => {
      await this.#announcing
      await this.#running
    })()
    await within(patienceMs, 'the last report', underWay).catch(() => undefined)
    let failures = 0
    while (mayLeave && this.#announced && performance.now() < until) {
      try {
        const left = Math.max(1, until - performance.now())
        await within(left, 'the tombstone', publisher.send(topics.gateways, [{ key: gatewayId, value: undefined }]))
        this.#announced = false
      } catch {
        await pause(Math.min(backOff(failures, 100, 1_000), Math.max(0, until - performance.now())))
        failures += 1
      }
    }
    if (this.#announced) log.error('could not tell Kafka that this gateway is gone; an operator has to declare it gone')
  }

  async #send(): Promise<boolean> {
    const { publisher, topics, gatewayId, clock, log } = this.#options
    try {
      const value = encodeEvent({
        type: GATEWAY_REPORT_TYPE,
        source: `/keyturn/gateways/${gatewayId}`,
        subject: gatewayId,
        time: new Date(clock()),
        data: this.#options.describe(),
      })
      await publisher.send(topics.gateways, [{ key: gatewayId, value, headers: { 'content-type': CLOUDEVENTS_MEDIA_TYPE } }])
      return true
    } catch (error) {
      this.#failed += 1
      if (!this.#stopped.signal.aborted) {
        this.#throttle('report', (more) => log.warn({ err: error, more }, 'a watermark report could not be sent; trying again'))
      }
      return false
    }
  }

  async #beat(): Promise<void> {
    const { signal } = this.#stopped
    let failures = 0
    while (!signal.aborted) {
      if (failures > 0) await pause(backOff(failures - 1, 250, 2_000), signal)
      else if (!this.#dirty) await this.#pokedOr(this.#options.heartbeatMs)
      if (signal.aborted) return
      this.#dirty = false
      failures = (await this.#send()) ? 0 : failures + 1
    }
  }

  async #pokedOr(ms: number): Promise<void> {
    const poked = new AbortController()
    this.#wake = () => poked.abort()
    await pause(ms, poked.signal)
    this.#wake = undefined
  }
}
