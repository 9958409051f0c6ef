import type {
  AlertKind,
  CredentialId,
  EvidenceFact,
  HeldFor,
  KeyId,
  NotificationKind,
  RotationProgress,
  RotationRequest,
  RotationStage,
  TimelineEntry,
  Trigger,
} from '@keyturn/contract'
import { defineSearchAttributeKey } from '@temporalio/common'
import { ActivityFailure, CancellationScope, condition, isCancellation, upsertSearchAttributes } from '@temporalio/workflow'
import type { Propagated, PublicationRecord } from '../activities/receipts.ts'
import { alerts, notifications, propagation, receipts, records } from './proxies.ts'

const STAGE_ATTRIBUTE = defineSearchAttributeKey('KeyturnStage', 'KEYWORD')

/** A change of direction that breaks into whatever the rotation is waiting for. */
export interface Turn {
  readonly course: 'roll-back' | 'emergency'
  readonly reason: string
  readonly actor: string
}

export class TurnTaken extends Error {
  readonly turn: Turn

  constructor(turn: Turn) {
    super(turn.reason)
    this.turn = turn
    this.name = 'TurnTaken'
  }
}

/** A person's word that the old key is to be deactivated whatever the evidence says. */
export interface Warrant {
  readonly reason: string
  readonly actor: string
}

export interface KeyOfRotation {
  readonly keyId: KeyId
  readonly version: number
}

/** The state of one rotation, and the ways in which it waits. */
export class Rotation {
  readonly credentialId: CredentialId
  stage: RotationStage = 'requested'
  trigger: Trigger = 'manual'
  deadline: number | undefined
  heldFor: HeldFor | undefined
  newKey: KeyOfRotation | undefined
  /** Set once every live gateway accepts the new key. */
  newKeyEverywhere = false
  warrant: Warrant | undefined
  /** Who asked for a roll-back or an emergency, and why. */
  lastTurn: Turn | undefined
  holdAsked: { readonly reason: string } | undefined
  /** A person's order to move the deadline, not yet carried out. */
  extension: { readonly byMs: number; readonly reason: string; readonly actor: string } | undefined
  readonly facts = new Set<EvidenceFact>()
  extendedByPolicy = false
  remindersSent = 0
  newKeyRetired = false
  private readonly timeline: TimelineEntry[] = []
  private unconfirmed: readonly string[] = []
  private resumeAsked = false
  private turn: Turn | undefined
  private waiting: CancellationScope | undefined
  private old: KeyOfRotation | undefined
  private first: RotationRequest | undefined

  constructor(credentialId: CredentialId, request: RotationRequest | undefined) {
    this.credentialId = credentialId
    if (request !== undefined) this.accept(request)
  }

  get requested(): boolean {
    return this.first !== undefined
  }

  get request(): RotationRequest {
    if (this.first === undefined) throw new Error('the rotation has not been requested yet')
    return this.first
  }

  get policy() {
    return this.request.policy
  }

  get oldKey(): KeyOfRotation {
    if (this.old === undefined) throw new Error('the rotation has not been opened yet')
    return this.old
  }

  get ended(): boolean {
    return this.stage === 'completed' || this.stage === 'rolled-back'
  }

  /** The end of the overlap window, in milliseconds of the epoch. */
  get overlapEndsAt(): number {
    if (this.deadline === undefined) throw new Error('the overlap window has not begun yet')
    return this.deadline
  }

  /** What every registry change of this rotation says of itself. */
  get by() {
    return { rotationId: this.request.rotationId, actor: this.lastTurn?.actor ?? this.request.actor, at: Date.now() }
  }

  accept(request: RotationRequest): void {
    this.first = request
    this.trigger = request.trigger
    this.timeline.push({ stage: 'requested', at: isoNow(), reason: request.reason })
  }

  opened(oldKey: KeyOfRotation): void {
    this.old = oldKey
  }

  turnBack(reason: string, actor: string): void {
    this.take({ course: 'roll-back', reason, actor })
  }

  /** Breaks the course off from within. */
  giveUp(reason: string): never {
    this.turnBack(reason, 'evidence')
    this.breakOff()
    throw new Error('unreachable: a turn was taken')
  }

  takeOver(reason: string, actor: string): void {
    this.trigger = 'emergency'
    this.take({ course: 'emergency', reason, actor })
  }

  extend(byMs: number, reason: string, actor: string): void {
    this.extension = { byMs, reason, actor }
  }

  resume(): void {
    this.resumeAsked = true
  }

  /** Notes a stage that a registry change has stored in its own transaction. */
  entered(stage: RotationStage, reason?: string): void {
    if (this.stage === stage) return
    this.stage = stage
    this.timeline.push({ stage, at: isoNow(), ...(reason === undefined ? {} : { reason }) })
    upsertSearchAttributes([{ key: STAGE_ATTRIBUTE, value: stage }])
  }

  /** Stores and notes a stage that begins without a change of a key. */
  async enter(stage: RotationStage, reason?: string): Promise<void> {
    await records.enterStage({ ...this.by, stage, ...(reason === undefined ? {} : { reason }) })
    this.entered(stage, reason)
  }

  /** Moves the end of the overlap window, with the sunset that gateways announce and the expiry of the claim. */
  async carryOutExtension(): Promise<void> {
    const { extension } = this
    if (extension === undefined) return
    this.extension = undefined
    this.deadline = Math.max(Date.now(), this.overlapEndsAt) + extension.byMs
    await records.extendOverlap({
      ...this.by,
      actor: extension.actor,
      reason: extension.reason,
      keyId: this.oldKey.keyId,
      successor: this.newKey?.version ?? this.oldKey.version + 1,
      deadline: this.deadline,
    })
    await this.published(this.oldKey.keyId)
  }

  /** Publishes a key's state and waits until every live gateway has applied it; while one is missing, the rotation is held. */
  async propagated(keyId: KeyId): Promise<void> {
    const { receipt, publication } = await this.published(keyId, this.policy.receiptWaitMs)
    if (receipt.unconfirmed.length === 0) return
    const before = this.stage
    this.unconfirmed = receipt.unconfirmed
    const reason = `no receipt from ${receipt.unconfirmed.join(', ')}: bring it back, or declare it gone`
    await this.held('receipt', reason, () => this.confirmed(publication))
    await this.enter(before, 'every live gateway has confirmed')
  }

  /** The same without a stage of its own, for a course that nobody can hold. */
  async appliedEverywhere(keyId: KeyId): Promise<void> {
    const { receipt, publication } = await this.published(keyId, this.policy.receiptWaitMs)
    this.unconfirmed = receipt.unconfirmed
    if (receipt.unconfirmed.length > 0) await this.confirmed(publication)
  }

  /** Publishes a key's state and waits for the receipt only so long. */
  async published(keyId: KeyId, waitMs = 0): Promise<Propagated> {
    return this.interruptible(() => propagation.propagate({ rotationId: this.request.rotationId, keyId, waitMs }))
  }

  /** Holds the rotation until a person resumes it, or something else releases it. Ends in the stage that it was held in. */
  async hold(heldFor: HeldFor, reason: string, released: () => boolean = () => false): Promise<void> {
    const before = this.stage
    this.resumeAsked = false
    this.holdAsked = undefined
    this.facts.delete('old-key-quiet')
    await this.held(heldFor, reason, () => this.wait(() => this.resumeAsked || released()))
    await this.enter(before, 'no longer held')
  }

  /** Holds where a person asked for it while nothing could be held. */
  async holdIfAsked(): Promise<void> {
    if (this.holdAsked !== undefined) await this.hold('operator', this.holdAsked.reason)
  }

  /** Waits until something holds or a time comes (false); a turn breaks in. */
  async wait(met: () => boolean, until?: number): Promise<boolean> {
    this.breakOff()
    const awake = () => this.turn !== undefined || met()
    const inTime =
      until === undefined ? await condition(awake).then(() => true) : await condition(awake, Math.max(1, until - Date.now()))
    this.breakOff()
    return inTime
  }

  /** Tells people what they should look at. That nobody could be told is no reason to stop. */
  async alert(kind: AlertKind, detail: string): Promise<void> {
    try {
      await alerts.raiseAlert({ kind, credentialId: this.credentialId, rotationId: this.request.rotationId, detail })
    } catch (error) {
      if (isCancellation(error)) throw error
    }
  }

  /** Tells the client. When that fails for good, an alert says so, and the rotation goes on: gateways tell it in-band. */
  async tell(message: NotificationKind): Promise<void> {
    try {
      await this.interruptible(() => notifications.notifyClient({ rotationId: this.request.rotationId, message }))
    } catch (error) {
      if (isCancellation(error) || !(error instanceof ActivityFailure)) throw error
      await this.alert('notification-failed', `the client was not told "${message}": ${error.cause?.message ?? error.message}`)
    }
  }

  progress(): RotationProgress {
    return {
      rotationId: this.request.rotationId,
      credentialId: this.credentialId,
      trigger: this.trigger,
      stage: this.stage,
      timeline: this.timeline,
      unconfirmed: this.unconfirmed,
      ...(this.old === undefined ? {} : { oldKeyId: this.old.keyId }),
      ...(this.newKey === undefined ? {} : { newKeyId: this.newKey.keyId }),
      ...(this.deadline === undefined ? {} : { deadline: new Date(this.deadline).toISOString() }),
      ...(this.heldFor === undefined ? {} : { heldFor: this.heldFor }),
    }
  }

  private async confirmed(publication: PublicationRecord): Promise<void> {
    await this.interruptible(() => receipts.awaitReceipt({ rotationId: this.request.rotationId, publication }))
    this.unconfirmed = []
  }

  private async held(heldFor: HeldFor, reason: string, until: () => Promise<unknown>): Promise<void> {
    this.heldFor = heldFor
    try {
      await records.enterStage({ ...this.by, stage: 'held', reason, heldFor, unconfirmed: this.unconfirmed })
      this.entered('held', reason)
      await this.alert('rotation-held', reason)
      await until()
    } finally {
      this.heldFor = undefined
    }
  }

  /** Runs work that may take long; a turn cancels it. */
  private async interruptible<T>(work: () => Promise<T>): Promise<T> {
    this.breakOff()
    const scope = new CancellationScope()
    this.waiting = scope
    try {
      return await scope.run(work)
    } catch (error) {
      this.breakOff()
      throw error
    } finally {
      this.waiting = undefined
    }
  }

  private take(turn: Turn): void {
    this.turn = turn
    this.lastTurn = turn
    this.waiting?.cancel()
  }

  private breakOff(): void {
    const turn = this.turn
    if (turn === undefined) return
    this.turn = undefined
    throw new TurnTaken(turn)
  }
}

const isoNow = (): string => new Date(Date.now()).toISOString()
