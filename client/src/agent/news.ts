/** Hears of a rotation when it begins, by the client's feed. An API without one is asked now and then, as it is anyway. */
import { shownBy } from '../signing.ts'
import type { StoredKey } from '../store.ts'
import type { Asking } from '../successor.ts'
import { pause } from '../waiting.ts'

/** The API lets nobody wait longer. */
const LONGEST_S = 50
const SHORTEST_MS = 1_000

export class News {
  readonly #asking: Asking
  /** The last event that was read. */
  #after: string | undefined

  constructor(asking: Asking) {
    this.#asking = asking
  }

  /** Until the client is told something, or until the time is over. @throws the signal's reason */
  async wait(key: StoredKey | undefined, ms: number, signal: AbortSignal): Promise<void> {
    const until = Date.now() + ms
    for (let left = ms; left > 0; left = until - Date.now()) {
      const before = this.#after
      const waitS = Math.min(LONGEST_S, Math.floor(left / 1_000))
      if (key === undefined || waitS < 1 || !(await this.#ask(key, before === undefined ? 0 : waitS, signal))) {
        return await pause(left, signal)
      }
      // What was there before was known to whoever has looked; only what came since is news.
      if (before === undefined || this.#after !== before) return await pause(Math.min(left, SHORTEST_MS), signal)
    }
  }

  /** @returns whether there is a feed */
  async #ask(key: StoredKey, waitS: number, signal: AbortSignal): Promise<boolean> {
    const { api, fetch, timeoutMs, now } = this.#asking
    const url = `${api}/v1/feed?wait=${waitS}s${this.#after === undefined ? '' : `&after=${this.#after}`}`
    try {
      const response = await fetch(url, {
        headers: await shownBy(key, { method: 'GET', url, body: undefined, now: now() }),
        redirect: 'error',
        signal: AbortSignal.any([signal, AbortSignal.timeout(waitS * 1_000 + timeoutMs)]),
      })
      const said: unknown = await response.json()
      const after = typeof said === 'object' && said !== null ? (said as { after?: unknown }).after : undefined
      if (response.status !== 200 || typeof after !== 'string' || !/^\d{1,18}$/.test(after)) return false
      this.#after = after
      return true
    } catch {
      signal.throwIfAborted()
      return false
    }
  }
}
