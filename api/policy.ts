import {
  DEFAULT_POLICY,
  DEFAULT_REMINDERS,
  formatDuration,
  graceTerms,
  LONGEST_RECEIPT_WAIT_MS,
  type OnDeadline,
  parseDuration,
  type RotationPolicy,
} from '@keyturn/contract'
import { ApiError, type FieldError } from './problems.ts'
import { given } from './routes.ts'

const MAX_MS = 366 * 86_400_000
const MAX_GRACE_MS = 86_400_000

/** What a request may say of how its rotation is to run. */
export interface PolicyOverrides {
  readonly overlap?: string
  readonly quietPeriod?: string
  readonly onDeadline?: OnDeadline
  readonly regretWindow?: string
  readonly receiptWait?: string
  /** For emergencies alone. */
  readonly grace?: string
}

/** Milliseconds, or an error that names the field. A minus sign never parses. */
function read(path: string, text: string | undefined, errors: FieldError[], mayBeZero: boolean): number | undefined {
  if (text === undefined) return undefined
  try {
    const ms = parseDuration(text)
    if (ms > MAX_MS) errors.push({ path, message: 'must not be longer than 366d' })
    else if (ms === 0 && !mayBeZero) errors.push({ path, message: 'must be longer than zero' })
    else return ms
  } catch (error) {
    errors.push({ path, message: (error as RangeError).message })
  }
  return undefined
}

const refuse = (errors: FieldError[]): void => {
  if (errors.length === 0) return
  throw new ApiError('invalid-duration', errors.map(({ path, message }) => `${path.slice(1)}: ${message}`).join('; '), errors)
}

/** @throws ApiError `invalid-duration`, with every field that is wrong */
export function duration(path: string, text: string, mayBeZero = false): number {
  const errors: FieldError[] = []
  const ms = read(path, text, errors, mayBeZero)
  refuse(errors)
  return ms ?? 0
}

/**
 * The policy of a credential with what the request says instead. A quiet period that is not given shrinks to an overlap that is
 * shorter than it; one that is given may not exceed the overlap, for then the evidence could never suffice in time.
 * @throws ApiError `invalid-duration`, with every field that is wrong
 */
export function policyOf(overrides: PolicyOverrides, base: RotationPolicy = DEFAULT_POLICY): RotationPolicy {
  const errors: FieldError[] = []
  const overlapMs = read('/overlap', overrides.overlap, errors, false) ?? base.overlapMs
  const quietPeriodMs = read('/quietPeriod', overrides.quietPeriod, errors, true)
  const regretWindowMs = read('/regretWindow', overrides.regretWindow, errors, true)
  const receiptWaitMs = read('/receiptWait', overrides.receiptWait, errors, true)
  const graceMs = read('/grace', overrides.grace, errors, false)
  if (graceMs !== undefined && graceMs > MAX_GRACE_MS)
    errors.push({ path: '/grace', message: 'must not be longer than 24h: an exposed key has to die' })
  if (receiptWaitMs !== undefined && receiptWaitMs > LONGEST_RECEIPT_WAIT_MS)
    errors.push({ path: '/receiptWait', message: 'must not be longer than 12h: people have to hear of a gateway that is silent' })
  if (errors.length === 0 && quietPeriodMs !== undefined && quietPeriodMs > overlapMs) {
    const message = `must not be longer than the overlap of ${formatDuration(overlapMs)}: the old key could never be quiet long enough`
    errors.push({ path: '/quietPeriod', message })
  }
  refuse(errors)
  return {
    ...base,
    overlapMs,
    quietPeriodMs: quietPeriodMs ?? Math.min(base.quietPeriodMs, overlapMs),
    ...given('onDeadline', overrides.onDeadline),
    ...given('regretWindowMs', regretWindowMs),
    ...given('receiptWaitMs', receiptWaitMs),
    ...(graceMs === undefined ? {} : graceTerms(graceMs)),
  }
}

export const policyBody = (policy: RotationPolicy) => ({
  overlap: formatDuration(policy.overlapMs),
  quietPeriod: formatDuration(policy.quietPeriodMs),
  onDeadline: policy.onDeadline,
  extendBy: formatDuration(policy.extendByMs),
  regretWindow: formatDuration(policy.regretWindowMs),
  receiptWait: formatDuration(policy.receiptWaitMs),
  newKeyRefusals: policy.newKeyRefusals,
  oldKeyRefusals: policy.oldKeyRefusals,
  successorByOldKey: policy.successorByOldKey,
  reminders: (policy.reminders ?? DEFAULT_REMINDERS).map((part) => `${Math.round(part * 10_000) / 100}%`),
  ...given('name', policy.name),
  ...given('claimInMessages', policy.claimInMessages),
  ...given('expiry', policy.expiryMs === undefined ? undefined : formatDuration(policy.expiryMs)),
  ...given('approvals', policy.approvals),
  ...given('grace', policy.graceMs === undefined ? undefined : formatDuration(policy.graceMs)),
})
