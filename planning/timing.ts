/** When a credential's turn comes: from a policy's period and overlap to the time at which its next rotation is started. */
import type { PolicyTerms } from '@keyturn/contract'
import { ORIGIN, type Wheel } from './wheel.ts'

const DAY = 86_400_000

/** All in milliseconds. */
export interface Timing {
  /** The age of a key by which its rotation is started, so that its overlap ends within the period. */
  readonly latestMs: number
  /** In how much time the wheel turns once: less than the latest age, so that there is time left when something goes wrong. */
  readonly windowMs: number
  /** A key that is younger is passed over: it has just been rotated. */
  readonly youngestMs: number
  /** How long a credential is left alone after its rotation was rolled back. */
  readonly retryAfterMs: number
}

export function timingOf({ periodMs, rotation }: Pick<PolicyTerms, 'periodMs' | 'rotation'>): Timing {
  const latestMs = periodMs - rotation.overlapMs
  const spareMs = latestMs / 10
  return { latestMs, windowMs: latestMs - spareMs, youngestMs: spareMs / 2, retryAfterMs: Math.min(DAY, spareMs) }
}

/**
 * When the rotation of a credential is planned for: the first time that its angle (0 to 1) comes round once its key is old enough.
 * Never later than `latestMs` after the key was made, as long as the wheel is not too tight.
 */
export function plannedAt(wheel: Wheel, { youngestMs }: Timing, angle: number, createdAt: number): number {
  const from = Math.max(createdAt + youngestMs, ORIGIN)
  const turns = Math.ceil(wheel.turnsAt(from) - angle) + angle
  return wheel.openFrom(Math.max(wheel.timeOf(turns), from))
}
