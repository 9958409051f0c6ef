/** What leaks ask of a rotation: which of its keys has leaked, when that one dies, and who waits to hear of the end. */
import type { KeyId, LeakOrder, RotationEnd, RotationStage } from '@keyturn/contract'
import { leakWorkflowId } from '@keyturn/contract/ids'
import { condition, defineSignal, getExternalWorkflowHandle } from '@temporalio/workflow'

/** Sent to every leak that has asked a rotation for something, when it has ended. */
export const rotationEndedSignal = defineSignal<[RotationEnd]>('rotationEnded')

/** A client that was asleep during a short overlap still gets its key. */
const CLAIM_AFTER_LEAK_MS = 7 * 86_400_000

/** A rotation, as far as a leak changes it. */
interface Leaking {
  readonly stage: RotationStage
  readonly ended: boolean
  readonly closing: boolean
  /** The old key dies before anything else. */
  readonly emergency: boolean
  /** How long an emergency still leaves the old key to the client. */
  readonly graceLeftMs: number | undefined
  readonly goingBack: boolean
  readonly oldKeyIs: 'accepted' | 'going' | 'off'
  readonly oldKeyId: KeyId | undefined
  /** Of the new key, unless it has been given up. */
  readonly newKeyId: KeyId | undefined
  deadline: number | undefined
  takeOver(reason: string, actor: string, trigger: 'leak'): void
  /** Breaks into whatever it waits for, to go on with what is known now. */
  turn(course: 'new-key-leaked' | 'old-key-leaked', reason: string, actor: string): void
}

export class RotationLeaks {
  /** The old key has leaked: it dies then, whatever the rotation waits for, and never comes back. */
  oldKeyDiesAt: number | undefined
  /** The new key has leaked, and has not been replaced yet. */
  newKeyLeak: LeakOrder | undefined
  /** A new key has leaked and was replaced. */
  reissued = false
  private readonly heard: LeakOrder[] = []
  private readonly rotation: Leaking

  constructor(rotation: Leaking) {
    this.rotation = rotation
  }

  /** Whether a leak waits to hear of the end. */
  get waitForEnd(): boolean {
    return this.heard.length > 0
  }

  /** Whether the client has to know that a leak is why it hears of a new key. */
  get areWhy(): boolean {
    return this.oldKeyDiesAt !== undefined || this.reissued
  }

  /** A leak asks for something. It is told when the rotation has ended, whatever becomes of it. */
  hear(order: LeakOrder): void {
    this.heard.push(order)
    this.meet(order)
  }

  /** The rotation knows its old key, or its new one: what was heard before can be met now. */
  meetAll(opening?: LeakOrder): void {
    for (const order of opening === undefined ? this.heard : [opening, ...this.heard]) this.meet(order)
  }

  /** Until when the secret of a key that is issued now can be fetched. */
  claimUntil(overlapMs: number, opening: LeakOrder | undefined): number {
    return Date.now() + (opening === undefined ? overlapMs : Math.max(overlapMs, CLAIM_AFTER_LEAK_MS))
  }

  /** Tells the leaks that have asked. One that has ended meanwhile needs no telling. */
  async tellEnd(end: RotationEnd): Promise<void> {
    for (let order = this.heard.shift(); order !== undefined; order = this.heard.shift()) {
      await getExternalWorkflowHandle(leakWorkflowId(order.leakId))
        .signal(rotationEndedSignal, end)
        .catch(() => undefined)
    }
  }

  private meet(order: LeakOrder): void {
    const { rotation } = this
    if (rotation.ended || rotation.closing) return
    if (order.keyId === rotation.oldKeyId) this.oldKeyLeaked(order)
    else if (order.keyId === rotation.newKeyId) {
      this.newKeyLeak = order
      rotation.turn('new-key-leaked', order.reason, order.actor)
    }
  }

  private oldKeyLeaked({ atOnce, overlapMs, reason, actor }: LeakOrder): void {
    const { rotation } = this
    // An emergency has killed it, or will; a leak that says at once does not wait for a grace.
    if (rotation.emergency && !(atOnce && rotation.graceLeftMs !== undefined)) return
    if (atOnce || rotation.oldKeyIs === 'off') {
      rotation.takeOver(reason, actor, 'leak')
      return
    }
    const diesAt = Math.min(Date.now() + overlapMs, rotation.deadline ?? Number.POSITIVE_INFINITY)
    if (this.oldKeyDiesAt !== undefined && this.oldKeyDiesAt <= diesAt) return
    this.oldKeyDiesAt = diesAt
    this.killInTime(diesAt, reason, actor).catch(() => undefined)
    // A roll-back is let end: the leak is answered by a rotation of its own then.
    if (rotation.goingBack) return
    if (rotation.deadline !== undefined) rotation.deadline = diesAt
    // Before that nothing has been done that would have to be done anew.
    if (rotation.stage !== 'requested') rotation.turn('old-key-leaked', reason, actor)
  }

  private async killInTime(diesAt: number, reason: string, actor: string): Promise<void> {
    const { rotation } = this
    const settled = () => rotation.ended || rotation.emergency || rotation.oldKeyIs === 'off' || this.oldKeyDiesAt !== diesAt
    if (await condition(settled, Math.max(1, diesAt - Date.now()))) return
    rotation.takeOver(`the time that a leaked key is left has ended: ${reason}`, actor, 'leak')
  }
}
