/**
 * Bad tokens by address: a token bucket each. Past its limit, an address's refusals are held back for a second before they are
 * sent, so that each of its connections gets one try a second. Nothing else happens to it: a right key is accepted at once from
 * wherever it comes, because behind a NAT, or a proxy that we were not told of, everybody has one address.
 */
import { callerNetwork } from './sources.ts'

export interface BadTokensOptions {
  /** How many an address may show in a second, in the long run. 0: no limit. */
  readonly perSecond: number
  readonly clock: () => number
  /** Addresses that are remembered; those that were quiet the longest are forgotten. */
  readonly mostAddresses?: number
  /** Answers that are held back in one second; past it they are sent at once, because holding costs memory. */
  readonly mostHeld?: number
}

const HOLD_MS = 1_000
/** At once, so many times the limit of a second. */
const BURST = 5

interface Bucket {
  left: number
  at: number
}

export class BadTokens {
  readonly #options: BadTokensOptions
  readonly #buckets = new Map<string, Bucket>()
  /** The second of the last one that was held back, and how many in it. */
  #second = 0
  #held = 0
  #limited = 0

  constructor(options: BadTokensOptions) {
    this.#options = options
  }

  /** Refusals of an address past its limit, so far. */
  get limited(): number {
    return this.#limited
  }

  get addresses(): number {
    return this.#buckets.size
  }

  /** Whether the refusal of another one would be held back. */
  isPastLimit(address: string | undefined): boolean {
    const bucket = this.#buckets.get(callerNetwork(address))
    return bucket !== undefined && this.#leftIn(bucket, this.#options.clock()) < 1
  }

  #leftIn({ left, at }: Bucket, now: number): number {
    const { perSecond } = this.#options
    return Math.min(perSecond * BURST, left + (Math.max(0, now - at) * perSecond) / 1_000)
  }

  /** Counts a bad token. @returns for how long its refusal is to be held back; 0 mostly */
  holdMs(address: string | undefined): number {
    const { perSecond, clock, mostAddresses = 10_000, mostHeld = 10_000 } = this.#options
    if (perSecond === 0) return 0
    const now = clock()
    const name = callerNetwork(address)
    const bucket = this.#buckets.get(name) ?? { left: perSecond * BURST, at: now }
    bucket.left = this.#leftIn(bucket, now)
    bucket.at = now
    this.#buckets.delete(name)
    const [oldest] = this.#buckets.size < mostAddresses ? [] : this.#buckets.keys()
    if (oldest !== undefined) this.#buckets.delete(oldest)
    this.#buckets.set(name, bucket)
    if (bucket.left >= 1) {
      bucket.left -= 1
      return 0
    }
    this.#limited += 1
    const second = Math.floor(now / HOLD_MS)
    if (second !== this.#second) [this.#second, this.#held] = [second, 0]
    this.#held += 1
    return this.#held > mostHeld ? 0 : HOLD_MS
  }
}
