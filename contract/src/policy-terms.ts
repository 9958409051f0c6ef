/** What a policy means: every default filled in, times in milliseconds, shares as fractions. */
import { parseDuration } from './duration.ts'
import type { Blackout, Policy } from './policy.ts'
import { DEFAULT_POLICY, DEFAULT_REMINDERS, type RotationPolicy } from './rotation.ts'

const DAY = 86_400_000
export const DEFAULT_PERIOD_MS = 90 * DAY
export const LONGEST_PERIOD_MS = 180 * DAY
/** With `allowLongPeriod`. */
export const LONGEST_ALLOWED_PERIOD_MS = 3_650 * DAY
export const SHORTEST_PERIOD_MS = DAY
const DEFAULT_STOP_ABOVE = 0.1

/** So many credentials, or such a part of all (0 to 1). */
export type WaveSize = { readonly count: number } | { readonly share: number }

export interface PolicyTerms {
  readonly name: string
  /** How old a key may get, its overlap included. */
  readonly periodMs: number
  /** How one rotation runs. */
  readonly rotation: RotationPolicy
  readonly blackout: readonly Blackout[]
  readonly waves: readonly WaveSize[]
  /** The part of a wave, held or rolled back, above which nothing more is started. */
  readonly stopAbove: number
  readonly concurrency?: number
  readonly startsPerHour?: number
  /** 0: the leaked key is compromised at once. Absent: the playbook of the credential's scopes decides. */
  readonly onLeakMs?: number
}

const HOUR = 3_600_000
const UNIT_MS = { s: 1_000, m: 60_000, h: HOUR, d: DAY } as const

/** `10%` → 0.1 */
export const parseShare = (text: string): number => Number(text.slice(0, -1)) / 100

/** `100/h` → 100; `2/m` → 120. */
export function parseRate(text: string): number {
  const [count = '', unit = 'h'] = text.split('/')
  return (Number(count) * HOUR) / UNIT_MS[unit as keyof typeof UNIT_MS]
}

const waveSize = (size: number | string): WaveSize => (typeof size === 'number' ? { count: size } : { share: parseShare(size) })

/**
 * The terms of a policy that `checkPolicy` has found sound. Where nothing is said, an overlap is at most a fifth of the period,
 * a quiet period and an extension at most the overlap.
 */
export function termsOf(policy: Policy): PolicyTerms {
  const ms = (text: string | undefined): number | undefined => (text === undefined ? undefined : parseDuration(text))
  const periodMs = ms(policy.period) ?? DEFAULT_PERIOD_MS
  const overlapMs = ms(policy.overlap) ?? Math.min(DEFAULT_POLICY.overlapMs, Math.floor(periodMs / 5))
  const expiryMs = ms(policy.expiry)
  const onLeakMs = policy.onLeak === 'atOnce' ? 0 : ms(policy.onLeak)
  return {
    name: policy.name,
    periodMs,
    rotation: {
      name: policy.name,
      overlapMs,
      quietPeriodMs: ms(policy.quietPeriod) ?? Math.min(DEFAULT_POLICY.quietPeriodMs, overlapMs),
      onDeadline: policy.onDeadline ?? DEFAULT_POLICY.onDeadline,
      extendByMs: ms(policy.extendBy) ?? Math.min(DEFAULT_POLICY.extendByMs, overlapMs),
      reminders: policy.reminders?.map(parseShare) ?? DEFAULT_REMINDERS,
      regretWindowMs: ms(policy.regretWindow) ?? DEFAULT_POLICY.regretWindowMs,
      receiptWaitMs: ms(policy.receiptWait) ?? DEFAULT_POLICY.receiptWaitMs,
      newKeyRefusals: policy.thresholds?.newKeyRefusals ?? DEFAULT_POLICY.newKeyRefusals,
      oldKeyRefusals: policy.thresholds?.oldKeyRefusals ?? DEFAULT_POLICY.oldKeyRefusals,
      successorByOldKey: policy.delivery?.successorByOldKey ?? DEFAULT_POLICY.successorByOldKey,
      ...(policy.delivery?.claimInMessages === true ? { claimInMessages: true } : {}),
      ...(expiryMs === undefined ? {} : { expiryMs }),
      ...(policy.approvals === undefined ? {} : { approvals: policy.approvals }),
    },
    blackout: policy.blackout ?? [],
    waves: policy.waves?.map(({ size }) => waveSize(size)) ?? [{ share: 1 }],
    stopAbove: policy.stopAbove === undefined ? DEFAULT_STOP_ABOVE : parseShare(policy.stopAbove),
    ...(policy.concurrency === undefined ? {} : { concurrency: policy.concurrency }),
    ...(policy.rate === undefined ? {} : { startsPerHour: parseRate(policy.rate) }),
    ...(onLeakMs === undefined ? {} : { onLeakMs }),
  }
}
