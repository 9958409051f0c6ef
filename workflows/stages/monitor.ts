import { formatDuration } from '@keyturn/contract/duration'
import { DEFAULT_REMINDERS, type Evidence } from '@keyturn/contract/rotation'
import { patched } from '@temporalio/workflow'
import { records } from '../proxies.ts'
import type { Rotation, Warrant } from '../rotation.ts'

/** The last part of the overlap is near its end, but no more than a day of it; a short overlap has no such part. */
const NEAR = 0.05
const MOST_NEAR_MS = 86_400_000
const SHORT_MS = 3_600_000

/**
 * Follows which key is used, until the old one may go: on evidence (undefined), or on somebody's word (a warrant).
 * The collector says when the evidence has changed; here is no polling.
 */
export async function monitor(rotation: Rotation): Promise<Warrant | undefined> {
  const { policy, facts } = rotation
  facts.delete('old-key-quiet')
  const evidence = await records.startMonitoring(rotation.by)
  rotation.entered('monitoring')
  if (evidence.newKeyFirstUsedAt !== undefined) facts.add('new-key-used')
  if (evidence.sufficient && rotation.holdAsked === undefined) return undefined

  for (;;) {
    const { overlapEndsAt, leaks } = rotation
    // A leaked key's end comes by itself, and breaks in here.
    const end = leaks.oldKeyDiesAt === undefined ? overlapEndsAt : undefined
    await rotation.turns.wait(() => isDue(rotation), nextMessage(rotation) ?? end)

    if (facts.has('new-key-refused')) await mindRefusals(rotation)
    else if (rotation.warrant !== undefined) return rotation.warrant
    else if (rotation.extensions.length > 0) await rotation.carryOutExtensions()
    else if (rotation.holdAsked !== undefined) await rotation.holdIfAsked()
    else if (facts.has('old-key-quiet')) return undefined
    else if (Date.now() < overlapEndsAt) await (isNear(rotation) ? warnOfDeadline(rotation) : remind(rotation))
    else if (leaks.oldKeyDiesAt !== undefined) await rotation.turns.wait(() => isDue(rotation))
    else {
      const now = await records.readEvidence({ rotationId: rotation.request.rotationId })
      // Somebody may have said something meanwhile, and that counts first.
      if (isDue(rotation)) continue
      if (now.sufficient) return undefined
      // Where the new key is not accepted yet, nothing forces the client off its old one (G1).
      if (policy.onDeadline === 'force' && now.awaitsEnrolment !== true)
        return { reason: 'the overlap window has ended, and the policy says force', actor: 'policy' }
      if (policy.onDeadline === 'extend' && !rotation.extendedByPolicy) {
        rotation.extendedByPolicy = true
        rotation.extend(policy.extendByMs, 'the overlap window has ended, and the policy says extend', 'policy')
      } else {
        const released = () => rotation.warrant !== undefined || rotation.extensions.length > 0
        await rotation.hold('deadline', deadlineText(now, policy.quietPeriodMs), released)
      }
    }
  }
}

const isDue = ({ facts, warrant, extensions, holdAsked }: Rotation): boolean =>
  warrant !== undefined ||
  extensions.length > 0 ||
  holdAsked !== undefined ||
  facts.has('old-key-quiet') ||
  facts.has('new-key-refused')

/** Refusals of the new key lead back to the old one; but not to one that has leaked, and not when they were of another new key. */
async function mindRefusals(rotation: Rotation): Promise<void> {
  rotation.facts.delete('new-key-refused')
  const { newKeyRefusals } = await records.readEvidence({ rotationId: rotation.request.rotationId })
  if (newKeyRefusals <= rotation.policy.newKeyRefusals) return
  rotation.turnBack('the new key is refused', 'evidence')
  if (!rotation.goingBack && !rotation.oldKeyExpired)
    await rotation.alert(
      'leak',
      'the new key is refused, and the old one has leaked and will die: the client is about to have no key',
    )
}

/** When the next reminder is due; nothing once the new key is in use. */
function nextReminder({ remindersSent, facts, overlapEndsAt, policy, leaks, windowMs }: Rotation): number | undefined {
  const part = (policy.reminders ?? DEFAULT_REMINDERS)[remindersSent]
  if (part === undefined || facts.has('new-key-used')) return undefined
  const window = leaks.oldKeyDiesAt === undefined ? policy.overlapMs : windowMs
  const due = overlapEndsAt - (1 - part) * window
  return due < overlapEndsAt ? due : undefined
}

/** When the deadline is near enough to be told of once more, also to a client some of whose programs have switched over. */
function nearAt({ nearToldFor, overlapEndsAt, policy, leaks }: Rotation): number | undefined {
  const { overlapMs } = policy
  if (leaks.oldKeyDiesAt !== undefined || overlapMs < SHORT_MS || nearToldFor === overlapEndsAt) return undefined
  return patched('deadline-near') ? overlapEndsAt - Math.min(MOST_NEAR_MS, overlapMs * NEAR) : undefined
}

const isNear = (rotation: Rotation): boolean => (nearAt(rotation) ?? Number.POSITIVE_INFINITY) <= Date.now()

function nextMessage(rotation: Rotation): number | undefined {
  const next = Math.min(nextReminder(rotation) ?? Number.POSITIVE_INFINITY, nearAt(rotation) ?? Number.POSITIVE_INFINITY)
  return Number.isFinite(next) ? next : undefined
}

/** A reminder that falls due with it would say the same. */
async function warnOfDeadline(rotation: Rotation): Promise<void> {
  rotation.nearToldFor = rotation.overlapEndsAt
  while ((nextReminder(rotation) ?? Number.POSITIVE_INFINITY) <= Date.now()) rotation.remindersSent += 1
  await rotation.tell('deadline-near')
}

/** Of several that fell due while the rotation was held, one is enough. */
async function remind(rotation: Rotation): Promise<void> {
  do rotation.remindersSent += 1
  while ((nextReminder(rotation) ?? Infinity) <= Date.now())
  await rotation.tell('reminder')
}

function deadlineText(evidence: Evidence, quietPeriodMs: number): string {
  const rule = `the old key has to be unused for ${formatDuration(quietPeriodMs)}`
  if (evidence.awaitsEnrolment === true)
    return 'the overlap window has ended, and the client has not enrolled its new key: extend, roll back, or resume once it has'
  if (evidence.newKeyFirstUsedAt === undefined)
    return 'the overlap window has ended, and the new key has never been used: extend, approve or roll back'
  if (evidence.silentGateways.length > 0) {
    return `the overlap window has ended, and the use of the old key is not known: ${evidence.silentGateways.join(', ')} silent (${rule}): bring it back, extend, approve or roll back`
  }
  const { usageLostAt, oldKeyLastUsedAt = '' } = evidence
  if (usageLostAt !== undefined && usageLostAt > oldKeyLastUsedAt) {
    return `the overlap window has ended, and the old key may have been used until ${usageLostAt}, when a gateway was lost with its counts (${rule}): extend, approve or roll back`
  }
  return `the overlap window has ended, and the old key was used at ${evidence.oldKeyLastUsedAt ?? 'no known time'} (${rule}): extend, approve or roll back`
}
