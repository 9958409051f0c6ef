/**
 * The public keys that session tokens are verified with: fetched from the control plane every minute, and kept while it is away. A
 * token of a key that is not among them has the set fetched once more, and not again at once, however many such tokens come.
 */
import { createPublicKey, type KeyObject } from 'node:crypto'
import { SessionKeySet } from '@keyturn/contract'
import { Compile } from 'typebox/compile'
import { fetch } from 'undici'
import { createThrottle, type Log } from './log.ts'
import { backOff, pause } from './wait.ts'

export interface SessionKeysOptions {
  /** Of the control plane's `/.well-known/jwks.json`. */
  readonly url: string
  readonly clock: () => number
  readonly log: Log
}

const POLL_MS = 60_000
const ANSWER_MS = 5_000
/** Between two fetches because of unknown keys. */
const UNKNOWN_EVERY_MS = 10_000
/** The set is stale when it could not be fetched for so long. */
const STALE_AFTER_MS = 5 * 60_000

const isKeySet = Compile(SessionKeySet)

export class SessionKeys {
  readonly #options: SessionKeysOptions
  readonly #stopped = new AbortController()
  readonly #throttle = createThrottle()
  #keys: ReadonlyMap<string, KeyObject> = new Map()
  #asOf: number | undefined
  #askedForUnknownAt: number | undefined
  #fetching: Promise<boolean> | undefined
  #running: Promise<void> | undefined

  constructor(options: SessionKeysOptions) {
    this.#options = options
  }

  get(kid: string): KeyObject | undefined {
    return this.#keys.get(kid)
  }

  get size(): number {
    return this.#keys.size
  }

  /** When the set was asked for that is known, ms since the epoch. */
  get asOf(): number | undefined {
    return this.#asOf
  }

  isStale(now: number): boolean {
    return this.#asOf === undefined || now - this.#asOf > STALE_AFTER_MS
  }

  /**
   * There is a token of a key that is not in the set.
   * @returns whether the set is being fetched because of it: so long nobody can tell
   */
  missing(now: number): boolean {
    const before = this.#askedForUnknownAt
    if (this.#fetching !== undefined && before !== undefined) return true
    // A clock that was set back is no reason to wait.
    if (before !== undefined && now >= before && now - before < UNKNOWN_EVERY_MS) return false
    this.#askedForUnknownAt = now
    void this.refresh()
    return true
  }

  start(): void {
    this.#running ??= this.#poll()
  }

  async stop(): Promise<void> {
    this.#stopped.abort()
    await this.#running
    await this.#fetching
  }

  /** Resolves, never rejects, when the set was fetched, or could not be. */
  refresh(): Promise<boolean> {
    this.#fetching ??= this.#fetch().finally(() => {
      this.#fetching = undefined
    })
    return this.#fetching
  }

  async #poll(): Promise<void> {
    for (let failures = 0; !this.#stopped.signal.aborted; ) {
      failures = (await this.refresh()) ? 0 : failures + 1
      await pause(failures === 0 ? POLL_MS : backOff(failures, 250, POLL_MS / 4), this.#stopped.signal)
    }
  }

  async #fetch(): Promise<boolean> {
    const { url, clock, log } = this.#options
    const askedAt = clock()
    try {
      const response = await fetch(url, {
        redirect: 'error',
        signal: AbortSignal.any([AbortSignal.timeout(ANSWER_MS), this.#stopped.signal]),
      })
      if (!response.ok) {
        await response.body?.cancel()
        throw new Error(`the control plane answers with status ${response.status}`)
      }
      const set: unknown = await response.json()
      if (!isKeySet.Check(set)) throw new Error('the answer is no set of Ed25519 keys')
      this.#keys = new Map(set.keys.map((jwk) => [jwk.kid, createPublicKey({ format: 'jwk', key: jwk })]))
      this.#asOf = askedAt
      return true
    } catch (error) {
      if (!this.#stopped.signal.aborted)
        this.#throttle('fetch', (more) =>
          log.warn({ err: error, more }, 'the keys of session tokens could not be fetched; going on with those that are known'),
        )
      return false
    }
  }
}
