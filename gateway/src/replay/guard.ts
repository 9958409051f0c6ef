/** A signed request is accepted once. Asked after its signature is known to be right, so that nobody can use up a nonce of somebody else's. */

export interface ReplayInput {
  readonly keyId: string
  readonly nonce: string
  /** When the request says that it was signed, seconds since the epoch. */
  readonly created: number
  /** Where a client numbers its requests: a whole number that rises from request to request. */
  readonly sequence?: number
  /** Of the key: they say what is to be done while the guard can not tell. */
  readonly scopes: readonly string[]
}

/**
 * - `fresh`: never seen, and remembered from now on
 * - `replayed`: seen before; or created outside the window, where nobody can tell any more
 * - `out-of-order`: the sequence number has been used, or is too far behind the highest
 * - `full`: there is no room to remember it
 * - `unavailable`: what was accepted before is not known at the moment. A client tries again with a new nonce, signed anew
 */
export type Verdict = 'fresh' | 'replayed' | 'out-of-order' | 'full' | 'unavailable'

export interface ReplayGuard {
  /** @param now ms since the epoch */
  check(input: ReplayInput, now: number): Verdict | Promise<Verdict>
  /** What it remembers in this process: nonces, and keys with a sequence. */
  readonly held: number
  /** Whether it knows what was accepted before. A guard that does not yet tells every request that it is `unavailable`. */
  readonly ready: boolean
  close(): Promise<void>
}

/** How far in the future a request may say to have been signed. */
export const FUTURE_SKEW_MS = 5_000

/** Whether a request was created within the window: at most `windowMs` ago, and at most `FUTURE_SKEW_MS` ahead. */
export const isTimely = (created: number, now: number, windowMs: number): boolean =>
  now - created * 1_000 <= windowMs && created * 1_000 - now <= FUTURE_SKEW_MS
