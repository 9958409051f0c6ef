/**
 * The nonces that one process has accepted. Bounded: when it is full it refuses rather than forget. Nonces lie in generations by the
 * time at which their requests were created; a whole generation goes when none of them could be accepted any more.
 */
import { hash, randomBytes } from 'node:crypto'
import { createThrottle, type Log } from '../log.ts'
import { FUTURE_SKEW_MS, isTimely, type ReplayGuard, type ReplayInput, type Verdict } from './guard.ts'
import { NonceSet } from './nonce-set.ts'
import { advance, type SequenceState } from './sequences.ts'

export interface MemoryGuardOptions {
  readonly windowMs: number
  /** How many nonces, and keys with a sequence, are remembered at most. */
  readonly capacity: number
  /** How far a sequence number may be behind the highest: 0 to 31. */
  readonly reorder: number
  /**
   * When this process began, ms since the epoch. What one before it accepted is not known: whatever may have been created before then
   * is `unavailable`.
   */
  readonly startedAt: number
  /** Keys that are served all the same while the guard does not know; by their scopes. */
  readonly failOpen: (scopes: readonly string[]) => boolean
  readonly log: Log
}

const GENERATIONS = 6

export class MemoryGuard implements ReplayGuard {
  readonly #options: MemoryGuardOptions
  readonly #spanS: number
  readonly #generations = new Map<number, NonceSet>()
  /** Generations up to this one are forgotten, even when the clock is set back. */
  #forgotten = Number.NEGATIVE_INFINITY
  /** The one that was used longest ago comes first. */
  readonly #sequences = new Map<string, { readonly state: SequenceState; readonly at: number }>()
  readonly #throttle = createThrottle()
  /** Nobody outside can look for two nonces with one hash, so 64 bits of it are enough: a chance of one in 10^13 to refuse a request wrongly. */
  readonly #secret = randomBytes(16).toString('latin1')

  constructor(options: MemoryGuardOptions) {
    this.#options = options
    this.#spanS = Math.max(1, Math.ceil(options.windowMs / 1_000 / GENERATIONS))
  }

  get held(): number {
    let nonces = 0
    for (const generation of this.#generations.values()) nonces += generation.size
    return nonces + this.#sequences.size
  }

  readonly ready = true

  check({ keyId, nonce, created, sequence, scopes }: ReplayInput, now: number): Verdict {
    const { windowMs, capacity, reorder, startedAt, failOpen } = this.#options
    if (!isTimely(created, now, windowMs)) return 'replayed'
    // The process before may have accepted what a client whose clock is ahead had created.
    if (created * 1_000 <= startedAt + FUTURE_SKEW_MS && !failOpen(scopes)) return 'unavailable'
    this.#forget(now)
    const number = Math.floor(created / this.#spanS)
    if (number <= this.#forgotten) return 'replayed'
    const digest = hash('sha256', `${this.#secret}${keyId} ${nonce}`, 'buffer')
    const [high, low] = [digest.readUInt32LE(0), digest.readUInt32LE(4) || 1]
    for (const generation of this.#generations.values()) if (generation.has(high, low)) return 'replayed'

    const before = this.#sequences.get(keyId)
    const after = sequence === undefined ? undefined : advance(before?.state, sequence, reorder)
    if (sequence !== undefined && after === undefined) return 'out-of-order'
    const needed = after !== undefined && before === undefined ? 2 : 1
    if (this.held + needed > capacity && !this.#makeRoom(needed, keyId, now)) {
      this.#throttle('full', (more) =>
        this.#options.log.error(
          { capacity, more },
          'FULL: the replay store refuses signed requests; raise KEYTURN_REPLAY_CAPACITY',
        ),
      )
      return 'full'
    }
    let generation = this.#generations.get(number)
    if (generation === undefined) {
      generation = new NonceSet()
      this.#generations.set(number, generation)
    }
    generation.add(high, low)
    if (after !== undefined) {
      this.#sequences.delete(keyId)
      this.#sequences.set(keyId, { state: after, at: now })
    }
    return 'fresh'
  }

  async close(): Promise<void> {
    this.#generations.clear()
    this.#sequences.clear()
  }

  #forget(now: number): void {
    for (const number of this.#generations.keys()) {
      const latest = (number + 1) * this.#spanS - 1
      if (now - latest * 1_000 <= this.#options.windowMs) continue
      this.#generations.delete(number)
      this.#forgotten = Math.max(this.#forgotten, number)
    }
  }

  /**
   * The order of a key may be forgotten for a nonce that must not be, once it has been silent for so long that nothing which was signed before its last
   * request can still be accepted, by a clock that is ahead neither.
   */
  #makeRoom(needed: number, own: string, now: number): boolean {
    const { windowMs, capacity } = this.#options
    for (const [keyId, { at }] of this.#sequences) {
      if (now - at <= windowMs + FUTURE_SKEW_MS) break
      if (keyId === own) continue
      this.#sequences.delete(keyId)
      if (this.held + needed <= capacity) return true
    }
    return false
  }
}
