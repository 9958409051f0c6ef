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
import { ActivityFailure, ApplicationFailure, CancellationScope, patched, upsertSearchAttributes } from '@temporalio/workflow'
import type { IssuedKey, OldKey } from '../activities/keys.ts'
import type { Delivery, FirstTry } from '../activities/notification.ts'
import type { Propagated, PublicationRecord } from '../activities/receipts.ts'
import type { OpenedRotation } from '../activities/rotations.ts'
import { Deliveries, goOnWith } from './deliveries.ts'
import { alerts, notifications, propagation, receipts, records } from './proxies.ts'
import { RotationLeaks } from './rotation-leaks.ts'
import { Turns, TurnTaken } from './turns.ts'

/** How long a receipt is waited for where the rotation goes on without it. */
const MOMENT_MS = 5_000
const LONGEST_REASON = 500
/** An old key that ends sooner does not come back for those alone who still ask for it: all others have left it. */
const WORTH_REINSTATING_MS = 86_400_000
const STAGE_ATTRIBUTE = defineSearchAttributeKey('KeyturnStage', 'KEYWORD')
const TRIGGER_ATTRIBUTE = defineSearchAttributeKey('KeyturnTrigger', 'KEYWORD')

/** A person's word that the old key is to be deactivated whatever the evidence says. */
export interface Warrant {
  readonly reason: string
  readonly actor: string
}

interface Extension {
  readonly byMs: number
  readonly reason: string
  readonly actor: string
}

/** The state of one rotation, and what its stages have in common. */
export class Rotation {
  readonly credentialId: CredentialId
  readonly turns = new Turns()
  readonly deliveries = new Deliveries()
  readonly leaks = new RotationLeaks(this)
  stage: RotationStage = 'requested'
  trigger: Trigger = 'manual'
  deadline: number | undefined
  heldFor: HeldFor | undefined
  newKey: IssuedKey | undefined
  /** Set once every live gateway accepts the new key. */
  newKeyEverywhere = false
  newKeyRetired = false
  /** The new key that a roll-back has begun to take out of its client's store. */
  takenBack: KeyId | undefined
  private graceMs: number | undefined
  /** When the grace ends that an emergency leaves to the client: it does not begin anew, whatever turns the rotation meanwhile. */
  graceEndsAt: number | undefined
  /** The client has been told of its new key already when the old one dies. */
  graced = false
  /** `going` from the decision to switch it off until the registry has answered. */
  oldKeyIs: 'accepted' | 'going' | 'off' = 'accepted'
  /** What took the rotation over, when something did. */
  takenOver: 'emergency' | 'leak' | undefined
  /** How long the overlap window is that was opened, or shortened, last. */
  windowMs = 0
  warrant: Warrant | undefined
  /** A person's approval, where the policy asks for one. */
  approved: Warrant | undefined
  holdAsked: { readonly reason: string } | undefined
  /** Orders to move the deadline that are not carried out yet. */
  readonly extensions: Extension[] = []
  readonly facts = new Set<EvidenceFact>()
  extendedByPolicy = false
  remindersSent = 0
  /** The deadline of which the client has heard that it is near. */
  nearToldFor: number | undefined
  /** Why there is no rotation: the registry refuses to open it. */
  impossible: ApplicationFailure | undefined
  /** The last stage is being stored: from here nothing turns the rotation. */
  closing = false
  private timeline: TimelineEntry[] = []
  private unconfirmed: readonly string[] = []
  private resumeAsked = false
  private old: OldKey | undefined
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

  get onRecord(): boolean {
    return this.old !== undefined
  }

  get oldKey(): OldKey {
    if (this.old === undefined) throw new Error('the rotation has not been opened yet')
    return this.old
  }

  /** No gateway accepts the old key any more, whatever becomes of it: there is no way back (G1). */
  get oldKeyExpired(): boolean {
    return this.oldKeyExpiresWithin(0)
  }

  get ended(): boolean {
    return this.stage === 'completed' || this.stage === 'rolled-back'
  }

  /** The old key dies before anything else: an emergency, or a leak that says at once. */
  get emergency(): boolean {
    return this.trigger === 'emergency' || this.takenOver !== undefined || this.opensAtOnce
  }

  /** A leak has opened it that says at once; as long as nothing is known to the contrary, of the old key. */
  private get opensAtOnce(): boolean {
    const leak = this.first?.leak
    return leak?.atOnce === true && leak.keyId === (this.old?.keyId ?? leak.keyId)
  }

  /** How long an emergency still leaves the old key to the client; nothing when it does not, or no longer. */
  get graceLeftMs(): number | undefined {
    return this.emergency && this.oldKeyIs === 'accepted' ? this.graceMs : undefined
  }

  get goingBack(): boolean {
    return this.turns.last?.course === 'roll-back'
  }

  /** The end of the overlap window, in milliseconds of the epoch. */
  get overlapEndsAt(): number {
    if (this.deadline === undefined) throw new Error('the overlap window has not begun yet')
    return this.deadline
  }

  /** What every registry change of this rotation says of itself. */
  get by() {
    return { rotationId: this.request.rotationId, actor: this.turns.last?.actor ?? this.request.actor, at: Date.now() }
  }

  get oldKeyId(): KeyId | undefined {
    return this.old?.keyId
  }

  /** Of the new key, unless it has been given up. */
  get newKeyId(): KeyId | undefined {
    return this.newKeyRetired ? undefined : this.newKey?.keyId
  }

  /** Until when the new key's secret can be fetched. */
  get claimUntil(): number {
    return this.leaks.claimUntil(this.policy.overlapMs, this.request.leak)
  }

  accept(request: RotationRequest): void {
    this.first = request
    this.trigger = request.trigger
    if (request.trigger === 'emergency') this.graceMs = request.policy.graceMs
    this.timeline.push({ stage: 'requested', at: isoNow(), reason: request.reason })
  }

  /** Takes what the registry says: of a fresh rotation, or of one that an earlier run has left. */
  opened({ rotationId, trigger, policy, oldKey, left }: OpenedRotation): void {
    this.old = oldKey
    if (left !== undefined) this.goOn({ rotationId, trigger, policy }, left)
    this.leaks.meetAll(this.request.leak)
  }

  /** A run that is gone has left the rotation like this. */
  private goOn(
    request: Pick<RotationRequest, 'rotationId' | 'trigger' | 'policy'>,
    left: NonNullable<OpenedRotation['left']>,
  ): void {
    const { trigger } = this.request
    this.first = { ...this.request, ...request }
    if (trigger === 'emergency') this.takenOver = 'emergency'
    else if (this.opensAtOnce) this.takenOver = 'leak'
    if (this.emergency) this.graceMs = request.policy.graceMs
    this.stage = left.stage
    this.timeline = [...left.timeline]
    this.newKey = left.newKey
    this.newKeyRetired = left.newKeyRetired
    if (left.newKey?.written === true && left.timeline.some(({ stage }) => stage === 'rolling-back'))
      this.takenBack = left.newKey.keyId
    this.oldKeyIs = left.oldKeyOff ? 'off' : 'accepted'
    this.deadline = left.deadline
    // A person has held it, and nobody has resumed it.
    if (left.heldFor === 'operator') this.holdAsked = { reason: left.timeline.at(-1)?.reason ?? left.reason }
    if (left.course === 'emergency' && !this.emergency) this.becomeEmergency(request.trigger === 'leak' ? 'leak' : 'emergency')
    if (left.course === 'roll-back' && !this.emergency)
      this.turns.last = { course: 'roll-back', reason: left.reason, actor: this.request.actor }
    upsertSearchAttributes([{ key: STAGE_ATTRIBUTE, value: this.stage }])
  }

  introduced(newKey: IssuedKey): void {
    this.newKey = newKey
    this.newKeyRetired = false
    // What the collector has said until now was about a key that is gone.
    if (this.leaks.reissued) this.facts.clear()
    this.leaks.meetAll()
  }

  /** The new key is dead, and another one is to be issued: what was known and decided about it counts no more. */
  lostNewKey(): void {
    this.leaks.newKeyLeak = undefined
    this.leaks.reissued = true
    this.newKeyRetired = true
    this.newKeyEverywhere = false
    if (!this.emergency) this.oldKeyIs = 'accepted'
    this.remindersSent = 0
    this.warrant = undefined
    this.extensions.length = 0
    if (this.leaks.oldKeyDiesAt === undefined) this.deadline = undefined
  }

  /** Opens the overlap window, unless one is open. */
  openWindow(): number {
    this.deadline ??= Math.min(Date.now() + this.policy.overlapMs, this.leaks.oldKeyDiesAt ?? Number.POSITIVE_INFINITY)
    this.windowMs = this.deadline - Date.now()
    return this.deadline
  }

  /** The registry does not open the rotation, for a reason that no retry changes. */
  refused(error: unknown): void {
    const cause = error instanceof ActivityFailure ? error.cause : error
    this.impossible = cause instanceof ApplicationFailure ? cause : ApplicationFailure.nonRetryable(String(cause))
  }

  /** Goes back, unless it is too late for that, or the old key is compromised, or has leaked, and never comes back (G9). */
  turnBack(reason: string, actor: string): void {
    if (!this.mayTurnBack) return
    if (this.oldKeyExpired) this.tellNoWayBack(reason)
    else this.turns.take({ course: 'roll-back', reason, actor })
  }

  /**
   * The roll-back that has begun can not be ended without a gap: the old key has expired (G1). The rotation goes on to its new key as if
   * nobody had asked.
   */
  async goForward(): Promise<never> {
    const turn = this.turns.last ?? { course: 'roll-back', reason: 'rolled back', actor: this.by.actor }
    this.turns.last = undefined
    if (this.stage === 'rolling-back') await this.enter('introducing', 'the old key has expired: there is no way back to it')
    await this.alert('key-expires', this.noWayBack(turn.reason))
    throw new TurnTaken(turn)
  }

  /** The old key dies; at once, or when the client has had `graceMs` to switch over. */
  takeOver(reason: string, actor: string, trigger: 'emergency' | 'leak' = 'emergency', graceMs?: number): void {
    if (!this.emergency) this.becomeEmergency(trigger)
    this.graceMs = graceMs
    this.graceEndsAt = undefined
    this.turns.take({ course: 'emergency', reason, actor })
  }

  /** A key has leaked: what the rotation is waiting for is broken off, and it goes on with that known. */
  turn(course: 'new-key-leaked' | 'old-key-leaked', reason: string, actor: string): void {
    if (course === 'old-key-leaked') this.remindersSent = 0
    this.extensions.length = 0
    this.turns.take({ course, reason, actor })
  }

  extend(byMs: number, reason: string, actor: string): void {
    this.extensions.push({ byMs, reason, actor })
  }

  resume(): void {
    this.resumeAsked = true
  }

  /**
   * What the collector says has come true. Refusals turn the rotation back on their own, whatever it is waiting for; those of the
   * old key only where a regret window was asked for.
   */
  learn(fact: EvidenceFact): void {
    // After a leak that needs a second look; monitoring takes it.
    if (fact === 'new-key-refused' && this.leaks.areWhy) this.facts.add(fact)
    else if (fact === 'new-key-refused') this.turnBack('the new key is refused', 'evidence')
    else if (fact !== 'old-key-refused') this.facts.add(fact)
    else if (this.policy.regretWindowMs > 0) this.regret('the old key is still asked for after it was deactivated')
  }

  private regret(reason: string): void {
    if (this.mayTurnBack && this.oldKeyExpiresWithin(WORTH_REINSTATING_MS)) this.tellNoWayBack(reason)
    else this.turnBack(reason, 'evidence')
  }

  private get mayTurnBack(): boolean {
    return !(this.emergency || this.goingBack || this.closing || this.ended || this.leaks.oldKeyDiesAt !== undefined)
  }

  private oldKeyExpiresWithin(ms: number): boolean {
    return (this.old?.expiresAt ?? Number.POSITIVE_INFINITY) <= Date.now() + ms
  }

  private tellNoWayBack(reason: string): void {
    CancellationScope.nonCancellable(() => this.alert('key-expires', this.noWayBack(reason))).catch(() => undefined)
  }

  private noWayBack(reason: string): string {
    const { expiresAt } = this.oldKey
    const when =
      expiresAt === undefined
        ? 'has expired'
        : `${this.oldKeyExpired ? 'expired' : 'expires'} at ${new Date(expiresAt).toISOString()}`
    return `${reason}; but the old key ${when}: the rotation does not go back to it by itself. See that every program uses the new key`
  }

  /** Notes a stage that a registry change has stored in its own transaction. */
  entered(stage: RotationStage, reason?: string): void {
    if (this.stage === stage) return
    this.stage = stage
    this.timeline.push({ stage, at: isoNow(), ...(reason === undefined ? {} : { reason }) })
    upsertSearchAttributes([{ key: STAGE_ATTRIBUTE, value: stage }])
  }

  /** Stores and notes a stage that begins without a change of a key, unless the rotation is in it already. */
  async enter(stage: RotationStage, reason?: string, actor = this.by.actor): Promise<void> {
    if (this.stage === stage) return
    await records.enterStage({ ...this.by, actor, stage, ...(reason === undefined ? {} : { reason }) })
    this.entered(stage, reason)
  }

  /** The last stage. A turn that was taken before it is stored still counts; after that none is accepted. */
  async end(stage: 'completed' | 'rolled-back', reason?: string): Promise<void> {
    this.turns.breakOff()
    this.closing = true
    try {
      await this.enter(stage, reason)
    } finally {
      this.closing = false
    }
  }

  /** Moves the end of the overlap window as was ordered, with the sunset that gateways announce and the expiry of the claim. */
  async carryOutExtensions(): Promise<void> {
    for (let next = this.extensions[0]; next !== undefined; next = this.extensions[0]) {
      const deadline = Math.max(Date.now(), this.overlapEndsAt) + next.byMs
      await records.extendOverlap({
        ...this.by,
        actor: next.actor,
        reason: next.reason,
        keyId: this.oldKey.keyId,
        successor: this.newKey?.version ?? this.oldKey.version + 1,
        deadline,
      })
      // A leak may have come meanwhile: the end that it has set stands.
      this.deadline = Math.min(deadline, this.leaks.oldKeyDiesAt ?? Number.POSITIVE_INFINITY)
      this.extensions.shift()
      await this.published(this.oldKey.keyId)
    }
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
    if (receipt.unconfirmed.length === 0) return
    const who = receipt.unconfirmed.join(', ')
    await this.alert('gateway-silent', `the roll-back waits for ${who}: bring it back, or declare it gone`)
    await this.confirmed(publication)
  }

  /** Publishes a key's state and waits for the receipt only so long: a silent gateway delays the rotation by that, no more. */
  async published(keyId: KeyId, waitMs?: number): Promise<Propagated> {
    const wait = waitMs === undefined ? { waitMs: MOMENT_MS, mayGoOn: true } : { waitMs }
    return this.turns.interruptible(() => propagation.propagate({ rotationId: this.request.rotationId, keyId, ...wait }))
  }

  /** Holds the rotation until a person resumes it, or something else releases it. Ends in the stage that it was held in. */
  async hold(heldFor: HeldFor, reason: string, released: () => boolean = () => false): Promise<void> {
    const before = this.stage
    this.resumeAsked = false
    this.holdAsked = undefined
    this.facts.delete('old-key-quiet')
    const free = () => this.resumeAsked || released()
    // What has failed may be that very order.
    const extended = () => heldFor !== 'failure' && this.extensions.length > 0
    await this.held(heldFor, reason, async () => {
      while (!free()) {
        await this.turns.wait(() => free() || extended())
        if (!free()) await this.carryOutExtensions()
      }
    })
    const approved = heldFor === 'approval' ? this.approved : undefined
    await this.enter(before, approved === undefined ? 'no longer held' : `approved: ${approved.reason}`, approved?.actor)
  }

  /** Holds where a person asked for it while nothing could be held. A word that the old key is to go releases it. */
  async holdIfAsked(): Promise<void> {
    if (this.holdAsked !== undefined) await this.hold('operator', this.holdAsked.reason, () => this.warrant !== undefined)
  }

  /** Tells people what they should look at. That nobody could be told is no reason to stop. */
  async alert(kind: AlertKind, detail: string): Promise<void> {
    try {
      await alerts.raiseAlert({ kind, credentialId: this.credentialId, rotationId: this.request.rotationId, detail })
    } catch (error) {
      if (!(error instanceof ActivityFailure)) throw error
    }
  }

  /**
   * Tells the client. What the first attempt leaves is gone on with for a day, beside the rotation, and an alert says so when none of
   * its contacts was reached in a while. A rotation whose client has not heard of its new key then is held; resumed, it tells it anew.
   */
  async tell(message: NotificationKind): Promise<void> {
    const left = await this.firstTry(message)
    if (left === undefined) return
    await goOnWith(left)
    if (left.told || message !== 'introduced') return
    // It may be reached late, or have found its new key by itself: gateways tell it in-band.
    const released = () => this.deliveries.of(left)?.told === true || this.facts.has('new-key-used') || this.warrant !== undefined
    const ordered = () => this.holdAsked !== undefined || this.extensions.length > 0
    await this.turns.wait(() => this.deliveries.of(left) !== undefined || released() || ordered())
    const news = this.deliveries.of(left)
    if (news === undefined || released()) return
    await this.hold('untold', `the client could not be told of its new key: ${news.why}`.slice(0, LONGEST_REASON), released)
    if (released() || !patched('told-anew')) return
    // Whoever has resumed it may have given other contacts before. Nothing is held for what becomes of this.
    const anew = await this.firstTry(message)
    if (anew !== undefined) await goOnWith(anew)
  }

  /** @returns what is left to be done of it */
  private async firstTry(message: NotificationKind): Promise<Delivery | undefined> {
    const { rotationId } = this.request
    try {
      // A history from before there were several channels may have no answer here.
      const tried: FirstTry | undefined = await this.turns.interruptible(() =>
        notifications.notifyClient({ rotationId, message, at: Date.now() }),
      )
      return tried?.left
    } catch (error) {
      if (!(error instanceof ActivityFailure)) throw error
      await this.alert('notification-failed', `the client was not told "${message}": ${error.cause?.message ?? error.message}`)
      return undefined
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

  /** From here the old key dies first. */
  becomeEmergency(trigger: 'emergency' | 'leak'): void {
    this.trigger = trigger
    this.takenOver = trigger
    upsertSearchAttributes([{ key: TRIGGER_ATTRIBUTE, value: this.trigger }])
  }

  private async confirmed(publication: PublicationRecord | undefined): Promise<void> {
    if (publication === undefined) throw new Error('without Kafka nothing is confirmed')
    await this.turns.interruptible(() => receipts.awaitReceipt({ rotationId: this.request.rotationId, publication }))
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
}

const isoNow = (): string => new Date(Date.now()).toISOString()
