/**
 * Whoever shows claims or keys that are none has to wait: after 20 in a minute from one address, what it shows is not looked up for the rest of
 * it. A code has 256 bits, and is guessed by nobody; this keeps the attempts from the database.
 */
import { networkOf } from '@keyturn/contract'
import { RateLimiterMemory } from 'rate-limiter-flexible'
import { ApiError } from './problems.ts'

const MOST = 20
const IN_SECONDS = 60

export interface Guesses {
  /** @throws ApiError too-many-guesses */
  refuseMany(address: string): Promise<void>
  /** What it has shown is none of ours. */
  count(address: string): Promise<void>
}

export function createGuesses(): Guesses {
  const limiter = new RateLimiterMemory({ points: MOST, duration: IN_SECONDS })
  return {
    async refuseMany(address) {
      const seen = await limiter.get(networkOf(address))
      if (seen === null || seen.consumedPoints < MOST) return
      throw new ApiError('too-many-guesses', `Wait for ${IN_SECONDS} s, and look whether what you send is whole.`)
    },
    async count(address) {
      await limiter.consume(networkOf(address)).catch(() => undefined)
    },
  }
}
