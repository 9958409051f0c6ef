/**
 * Where Ed25519 signatures wait that come from an address past its limit of bad tokens. To check one takes as long as to check dozens of tokens, and a
 * refusal that is held back has cost that already. Who has been right from there lately does not wait: behind a NAT everybody has one address.
 */
import type { BadTokens } from './bad-tokens.ts'
import { callerNetwork } from './sources.ts'
import { pause } from './wait.ts'

export interface TurnstileOptions {
  readonly badTokens: Pick<BadTokens, 'isPastLimit'>
  /** Of one address that are checked after their second; those that come while so many wait are not. */
  readonly mostEach?: number
  /** That wait at one time; past it nobody is let wait. */
  readonly most?: number
  /** Keys by address that have been right lately; the oldest are forgotten. */
  readonly mostRight?: number
  readonly wait?: (ms: number) => Promise<void>
}

const WAIT_MS = 1_000

const nameOf = (address: string | undefined, keyId: string): string => `${callerNetwork(address)} ${keyId}`

export class Turnstile {
  readonly #options: TurnstileOptions
  readonly #right = new Set<string>()
  readonly #waiting = new Map<string, number>()
  #all = 0

  constructor(options: TurnstileOptions) {
    this.#options = options
  }

  /**
   * @param keyId whose signature it is said to be, where that is told beside it
   * @returns nothing when it may be checked at once, as mostly; or, when it has waited, whether it may be checked
   */
  enter(address: string | undefined, keyId?: string): Promise<boolean> | undefined {
    const { badTokens, mostEach = 100, most = 10_000, wait = pause } = this.#options
    if (!badTokens.isPastLimit(address)) return undefined
    if (keyId !== undefined && this.#right.has(nameOf(address, keyId))) return undefined
    if (this.#all >= most) return Promise.resolve(false)
    const network = callerNetwork(address)
    const before = this.#waiting.get(network) ?? 0
    this.#waiting.set(network, before + 1)
    this.#all += 1
    return wait(WAIT_MS).then(() => {
      this.#all -= 1
      const left = (this.#waiting.get(network) ?? 1) - 1
      if (left === 0) this.#waiting.delete(network)
      else this.#waiting.set(network, left)
      return before < mostEach
    })
  }

  /** A request of this key from there was accepted. */
  right(address: string | undefined, keyId: string): void {
    const { mostRight = 10_000 } = this.#options
    const name = nameOf(address, keyId)
    this.#right.delete(name)
    const [oldest] = this.#right.size < mostRight ? [] : this.#right
    if (oldest !== undefined) this.#right.delete(oldest)
    this.#right.add(name)
  }

  /** It was not, or its signature was wrong. */
  wrong(address: string | undefined, keyId: string): void {
    this.#right.delete(nameOf(address, keyId))
  }
}
