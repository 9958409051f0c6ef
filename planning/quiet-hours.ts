import type { QuietHours } from '@keyturn/contract'
import { offsetAt } from './local-time.ts'

const MINUTE = 60_000
const DAY_MINUTES = 24 * 60

const minutesOf = (time: string): number => Number(time.slice(0, 2)) * 60 + Number(time.slice(3))

/**
 * When quiet hours end that a time lies in; nothing when it lies in none. They are of the client's day: over midnight when `from` comes
 * after `to`. Where clocks are changed in that night, the end is that of the clock on the wall.
 */
export function quietUntil({ from, to }: QuietHours, timeZone: string, at: number): number | undefined {
  const local = Math.floor((at + offsetAt(timeZone, at)) / MINUTE)
  const now = ((local % DAY_MINUTES) + DAY_MINUTES) % DAY_MINUTES
  const [begin, end] = [minutesOf(from), minutesOf(to)]
  const quiet = begin < end ? now >= begin && now < end : now >= begin || now < end
  if (!quiet) return undefined
  const localEnd = (local + ((end - now + DAY_MINUTES) % DAY_MINUTES)) * MINUTE
  const guess = localEnd - offsetAt(timeZone, at)
  return localEnd - offsetAt(timeZone, guess)
}
