/**
 * When Kafka does not tell, this gateway asks the control plane which keys have ended. An answer counts when it is signed by the
 * control plane, for this gateway and this question; and it only ever takes keys away.
 */
import type { KeyObject } from 'node:crypto'
import { FALLBACK_ISSUER, FALLBACK_PATH, FALLBACK_TYPE, FallbackAnswer, hasEnded, randomBase62 } from '@keyturn/contract'
import { errors, jwtVerify } from 'jose'
import { Compile } from 'typebox/compile'
import { fetch } from 'undici'
import type { KeyCache } from './key-cache.ts'
import { createThrottle, type Log } from './log.ts'
import { pause } from './wait.ts'

export interface FallbackAddress {
  /** Of the control plane, without a path. */
  readonly url: string
  readonly token: string
  /** What its answers are verified with: Ed25519. */
  readonly publicKey: KeyObject
}

export interface FallbackOptions extends FallbackAddress {
  readonly gatewayId: string
  readonly cache: KeyCache
  readonly stalenessMs: number
  readonly clock: () => number
  /** All that Kafka had before this time is in the cache. Nothing while loading: then nothing is decided, and nothing to be asked. */
  readonly freshAsOf: () => number | undefined
  readonly log: Log
}

const isAnswer = Compile(FallbackAnswer)
/** Clocks of the control plane and of this gateway may differ by as much. */
const CLOCK_TOLERANCE_S = 300

/** Signed wrongly, for somebody else, for another question, or not by the control plane at all. */
class Refused extends Error {
  override readonly name = 'FallbackRefused'
}

export class Fallback {
  readonly #options: FallbackOptions
  readonly #stopped = new AbortController()
  readonly #throttle = createThrottle()
  /** How far the answers were applied; nothing when Kafka told last. */
  #cursor: string | undefined
  #running: Promise<void> | undefined
  #answers = 0
  #applied = 0
  #refused = 0
  #failed = 0

  constructor(options: FallbackOptions) {
    this.#options = options
  }

  /** Answers that counted, keys that they took away, answers that were refused, and questions without an answer. */
  get counts(): { readonly answers: number; readonly applied: number; readonly refused: number; readonly failed: number } {
    return { answers: this.#answers, applied: this.#applied, refused: this.#refused, failed: this.#failed }
  }

  start(): void {
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stopped.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { stalenessMs, clock, freshAsOf, log } = this.#options
    const { signal } = this.#stopped
    while (!signal.aborted) {
      await pause(stalenessMs / 6, signal)
      const asOf = freshAsOf()
      if (signal.aborted || asOf === undefined) continue
      if (clock() - asOf <= stalenessMs / 3) {
        this.#cursor = undefined
        continue
      }
      try {
        await this.#catchUp(asOf)
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof Refused) {
          this.#refused += 1
          this.#throttle('refused', (more) =>
            log.error({ err: error, more }, 'REFUSED an answer to the fallback: nothing of it counts'),
          )
        } else {
          this.#failed += 1
          this.#throttle('failed', (more) =>
            log.warn(
              { err: error, more },
              'neither Kafka nor the control plane answers; serving what is known, and asking again',
            ),
          )
        }
      }
    }
  }

  /** Asks until there is nothing new: the last question says that everything before it is applied. */
  async #catchUp(asOf: number): Promise<void> {
    for (let more = true; more && !this.#stopped.signal.aborted; ) {
      const { keys, next, more: there } = await this.#ask(asOf)
      const { cache, log } = this.#options
      const taken = keys.filter((record) => cache.apply(record) === 'applied').length
      this.#answers += 1
      this.#applied += taken
      if (taken > 0) log.warn({ keys: taken }, 'keys have ended: told by the control plane, Kafka is silent')
      more = there || keys.length > 0
      this.#cursor = next
    }
  }

  async #ask(asOf: number): Promise<FallbackAnswer> {
    const { url, token, gatewayId, stalenessMs } = this.#options
    const nonce = randomBase62(22)
    const since = new Date(asOf).toISOString()
    const query = { gateway: gatewayId, nonce, since, ...(this.#cursor === undefined ? {} : { after: this.#cursor }) }
    const late = AbortSignal.timeout(Math.max(2_000, Math.ceil(stalenessMs / 3)))
    const response = await fetch(`${url}${FALLBACK_PATH}?${new URLSearchParams(query)}`, {
      headers: { authorization: `Bearer ${token}` },
      redirect: 'error',
      signal: AbortSignal.any([late, this.#stopped.signal]),
    })
    if (!response.ok) {
      await response.body?.cancel()
      throw new Error(`the control plane answers the fallback with status ${response.status}`)
    }
    return this.#verify(await response.json(), nonce)
  }

  async #verify(body: unknown, nonce: string): Promise<FallbackAnswer> {
    const { publicKey, gatewayId, clock } = this.#options
    const answer = typeof body === 'object' && body !== null && 'answer' in body ? body.answer : undefined
    if (typeof answer !== 'string') throw new Refused('this is no answer')
    let payload: unknown
    try {
      const verified = await jwtVerify(answer, publicKey, {
        algorithms: ['EdDSA'],
        typ: FALLBACK_TYPE,
        issuer: FALLBACK_ISSUER,
        audience: gatewayId,
        requiredClaims: ['iat', 'exp'],
        clockTolerance: CLOCK_TOLERANCE_S,
        currentDate: new Date(clock()),
      })
      payload = verified.payload
    } catch (error) {
      throw new Refused(error instanceof errors.JOSEError ? error.code : 'it can not be verified')
    }
    if (!isAnswer.Check(payload)) throw new Refused('it does not fit the schema')
    if (payload.nonce !== nonce) throw new Refused('it answers another question')
    if (!payload.keys.every(({ state }) => hasEnded(state))) throw new Refused('it brings a key that is accepted')
    return payload
  }
}
