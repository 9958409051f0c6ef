/** A rotation as the API, the workflow and the command line speak of it. No Node modules here: workflows import this file. */
import type { CredentialId, KeyId, LeakId, RotationId } from './ids.ts'

export const ROTATION_STAGES = [
  'requested',
  'introducing',
  'notifying',
  'monitoring',
  'held',
  'deactivating',
  'rolling-back',
  'completed',
  'rolled-back',
] as const
export type RotationStage = (typeof ROTATION_STAGES)[number]

export const TERMINAL_STAGES: readonly RotationStage[] = ['completed', 'rolled-back']
export const isTerminal = (stage: RotationStage): boolean => TERMINAL_STAGES.includes(stage)

/** What starts a rotation. A person starts `manual` and `emergency` ones; policies and leak reports start the others. */
export const TRIGGERS = ['manual', 'schedule', 'leak', 'emergency'] as const
export type Trigger = (typeof TRIGGERS)[number]

export const ON_DEADLINE = ['hold', 'extend', 'force'] as const
export type OnDeadline = (typeof ON_DEADLINE)[number]

export const ROTATION_UPDATES = ['approve', 'hold', 'resume', 'extend', 'deactivateNow', 'rollBack', 'escalate'] as const
export type RotationUpdate = (typeof ROTATION_UPDATES)[number]

/** How one rotation is to run. All times in milliseconds. */
export interface RotationPolicy {
  /** How long old and new key are both accepted at most, before `onDeadline` decides. */
  readonly overlapMs: number
  /** How long the old key must have been unused before it may be deactivated. */
  readonly quietPeriodMs: number
  readonly onDeadline: OnDeadline
  /** By how much `extend` moves the deadline. */
  readonly extendByMs: number
  /** How long refusals of the old key are watched after it is deactivated. */
  readonly regretWindowMs: number
  /** How long a receipt may stay incomplete before the rotation is held; `LONGEST_RECEIPT_WAIT_MS` at most. */
  readonly receiptWaitMs: number
  /** More refusals of the new key than this, during the overlap, roll back. */
  readonly newKeyRefusals: number
  /** More refusals of the old key than this, during the regret window, roll back. */
  readonly oldKeyRefusals: number
  /** Whether a program may fetch the successor by showing its old key. */
  readonly successorByOldKey: boolean
  /** Whether what people are sent holds the claim itself; without it, a link where they sign in or show the old key. */
  readonly claimInMessages?: boolean
  /** The policy that this comes from. */
  readonly name?: string
  /** The parts of the overlap after which a client that does not use its new key is reminded; `DEFAULT_REMINDERS` unless given. */
  readonly reminders?: readonly number[]
  /** How long the new key is accepted at most. */
  readonly expiryMs?: number
  /** Before which stage a rotation that the schedule has started waits for a person's approval. */
  readonly approvals?: ApprovalStage
  /** How long an emergency leaves the client to switch over before the old key dies; without it the key dies first. */
  readonly graceMs?: number
}

/** A receipt is not waited for longer before the rotation is held, whatever its policy says: a day is what one wait may take in all. */
export const LONGEST_RECEIPT_WAIT_MS = 12 * 3_600_000

export type ApprovalStage = 'introducing' | 'deactivating'

const MINUTE = 60_000
const DAY = 86_400_000

export const DEFAULT_REMINDERS: readonly number[] = [0.5, 0.75, 0.9]

export const DEFAULT_POLICY: RotationPolicy = {
  overlapMs: 14 * DAY,
  quietPeriodMs: DAY,
  onDeadline: 'hold',
  extendByMs: 7 * DAY,
  regretWindowMs: 60 * MINUTE,
  receiptWaitMs: 10 * MINUTE,
  newKeyRefusals: 5,
  oldKeyRefusals: 10,
  successorByOldKey: true,
}

/** One gateway's line in a receipt. `ms` is from `publishedAt` to `appliedAt`. */
export interface GatewayReceipt {
  readonly gatewayId: string
  readonly appliedAt: string
  readonly ms: number
}

/** Which gateway had applied a key event, and when. Complete when nobody is unconfirmed. */
export interface Receipt {
  readonly keyId: KeyId
  readonly event: string
  readonly revision: number
  readonly publishedAt: string
  readonly gateways: readonly GatewayReceipt[]
  readonly unconfirmed: readonly string[]
}

export interface Straggler {
  readonly address: string
  readonly userAgent: string
  readonly count: number
  readonly lastAt: string
}

/** What is known of the use of both keys. Times are RFC 3339. */
export interface Evidence {
  /** Every live gateway's usage is known up to here; absent while a gateway has said nothing. */
  readonly completeThrough?: string
  readonly oldKeyLastUsedAt?: string
  readonly newKeyFirstUsedAt?: string
  readonly newKeyLastUsedAt?: string
  readonly newKeyRefusals: number
  readonly oldKeyRefusals: number
  /** Gateways that owe usage reports, so that nothing can be said of later times. */
  readonly silentGateways: readonly string[]
  /** Up to when use may be unknown for good: a gateway ended then with counts that it had reported to nobody. */
  readonly usageLostAt?: string
  readonly stragglers: readonly Straggler[]
  /** The client has not enrolled the public key of its new key: only the old one is accepted. */
  readonly awaitsEnrolment?: true
  /** The client has said, with its new key, that it does not use the old one any more, and nothing that is known speaks against it. */
  readonly doneAt?: string
  /** The new key has been used, and the old one quiet for the quiet period. */
  readonly sufficient: boolean
}

/** One of a client's programs: one user agent at one address, or at several of one block. */
export interface Program {
  readonly userAgent: string
  /** An address, or a block of them. */
  readonly addresses: string
  /** Since when it uses the new key alone. */
  readonly movedAt?: string
  readonly oldLastAt?: string
  readonly newFirstAt?: string
}

/** How far a client has come from its old key to its new one. */
export interface Switchover {
  readonly programs: readonly Program[]
  readonly moved: number
  readonly total: number
  /** How many have moved in an hour, since the client was told. */
  readonly perHour?: number
  /** When all have moved, or will have at this rate. */
  readonly doneAt?: string
}

export interface TimelineEntry {
  readonly stage: RotationStage
  readonly at: string
  readonly reason?: string
}

/** What starts a rotation, joins a running one, or takes it over: the argument of the update `trigger`. */
export interface RotationRequest {
  readonly rotationId: RotationId
  readonly trigger: Trigger
  readonly reason: string
  readonly actor: string
  readonly policy: RotationPolicy
  /** Where it belongs in its policy's schedule; for trigger `schedule`. */
  readonly scheduled?: ScheduledAs
  /** The leak that asks for it. */
  readonly leak?: LeakOrder
}

/** The turn of the policy's wheel, and the wave within it (0 is the first). */
export interface ScheduledAs {
  readonly cycle: number
  readonly wave: number
}

/** What a leak asks of a rotation: as part of its request, or as the signal `leak` to the one that runs. */
export interface LeakOrder {
  readonly leakId: LeakId
  readonly keyId: KeyId
  /** Whether the key dies at once; otherwise `overlapMs` after the rotation hears of it, at the latest. */
  readonly atOnce: boolean
  readonly overlapMs: number
  readonly reason: string
  readonly actor: string
}

/** What a rotation signals to the leaks that asked it for something (signal `rotationEnded`). */
export interface RotationEnd {
  /** Absent when there was none: nobody had requested it. */
  readonly rotationId?: RotationId
  readonly stage: RotationStage
}

/** The answer to the update `trigger`: the rotation that now runs, which is another one's when this request joined it. */
export interface TriggerAnswer {
  readonly rotationId: RotationId
  readonly trigger: Trigger
  readonly joined: boolean
}

/** The argument of every update by a person. `byMs` is for `extend` alone. */
export interface RotationOrder {
  readonly rotationId: RotationId
  readonly reason: string
  readonly actor: string
  readonly byMs?: number
}

/**
 * Why a rotation is held: a gateway has not confirmed, the deadline has passed, a person said so, a step failed for good, the
 * policy asks for a person's approval, its client could be told on none of its channels, or the new key could not be written into the
 * client's store.
 */
export const HELD_FOR = ['receipt', 'deadline', 'operator', 'failure', 'approval', 'untold', 'undelivered'] as const
export type HeldFor = (typeof HELD_FOR)[number]

/** What the collector signals (signal `evidence`). */
export const EVIDENCE_FACTS = ['new-key-used', 'old-key-quiet', 'new-key-refused', 'old-key-refused'] as const
export type EvidenceFact = (typeof EVIDENCE_FACTS)[number]

/** How long the old key must have been unused, in an emergency with grace, for the client to have switched over. */
const SWITCHED_AFTER_MS = 10_000

/** What an emergency with grace changes in a policy. Whoever shows the old key, which is exposed, is not given the new one for it. */
export const graceTerms = (graceMs: number) =>
  ({ graceMs, quietPeriodMs: Math.min(SWITCHED_AFTER_MS, graceMs), successorByOldKey: false }) as const

/** What a client is told. */
export const NOTIFICATION_KINDS = [
  'introduced',
  'reminder',
  'deadline-near',
  'deactivated',
  'rolled-back',
  'leak',
  'emergency',
  'second-claim',
] as const
export type NotificationKind = (typeof NOTIFICATION_KINDS)[number]

/** Failure types of updates: refused at this stage; or come too late for a rotation that has ended. */
export const WRONG_STAGE = 'wrong-stage'
export const ROTATION_ENDED = 'rotation-ended'

/** Search attributes of every rotation, all of type Keyword. */
export const SEARCH_ATTRIBUTES = ['KeyturnClient', 'KeyturnStage', 'KeyturnTrigger', 'KeyturnEnvironment'] as const

/** Waits for receipts stand in a queue of their own, so that they take no place from the rest. */
export const receiptsTaskQueue = (taskQueue: string): string => `${taskQueue}-receipts`

/** What the query `progress` answers. */
export interface RotationProgress {
  readonly rotationId: RotationId
  readonly credentialId: CredentialId
  readonly trigger: Trigger
  readonly stage: RotationStage
  readonly timeline: readonly TimelineEntry[]
  readonly oldKeyId?: KeyId
  readonly newKeyId?: KeyId
  readonly deadline?: string
  readonly heldFor?: HeldFor
  readonly unconfirmed: readonly string[]
}
