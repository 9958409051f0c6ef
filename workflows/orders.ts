/** What people and the collector say to a running rotation: updates (validated), one signal, one query. */
import type { LeakOrder, RotationId } from '@keyturn/contract'
import {
  type EvidenceFact,
  isTerminal,
  ROTATION_ENDED,
  ROTATION_UPDATES,
  type RotationOrder,
  type RotationProgress,
  type RotationRequest,
  type RotationUpdate,
  type TriggerAnswer,
  WRONG_STAGE,
} from '@keyturn/contract/rotation'
import {
  ApplicationFailure,
  CancellationScope,
  condition,
  defineQuery,
  defineSignal,
  defineUpdate,
  setHandler,
} from '@temporalio/workflow'
import type { Rotation } from './rotation.ts'

export const triggerUpdate = defineUpdate<TriggerAnswer, [RotationRequest]>('trigger')
export const evidenceSignal = defineSignal<[EvidenceFact, RotationId]>('evidence')
export const leakSignal = defineSignal<[LeakOrder]>('leak')
export const progressQuery = defineQuery<RotationProgress>('progress')

export function listen(rotation: Rotation): void {
  setHandler(progressQuery, () => rotation.progress())
  setHandler(evidenceSignal, (fact, rotationId) => {
    // One that was meant for the rotation before this one, and comes late, says nothing of this one's keys.
    if (rotation.requested && rotationId === rotation.request.rotationId) rotation.learn(fact)
  })
  setHandler(leakSignal, (leak) => rotation.leaks.hear(leak))
  rotation.deliveries.listen()
  setHandler(triggerUpdate, (request) => CancellationScope.nonCancellable(() => trigger(rotation, request)), {
    validator: (_: RotationRequest) => refuseWhenEnding(rotation),
  })
  for (const update of ROTATION_UPDATES) {
    const { refusal, effect } = ORDERS[update]
    setHandler(
      defineUpdate<RotationProgress, [RotationOrder]>(update),
      (order) => CancellationScope.nonCancellable(() => give(rotation, order, effect)),
      {
        validator: (order) => {
          refuseWhenEnding(rotation)
          if (!rotation.requested) throw refused('the rotation has not begun')
          if (order.rotationId !== rotation.request.rotationId)
            throw refused(`another rotation of this credential is running: ${rotation.request.rotationId}`)
          const why = refusal(rotation)
          if (why !== undefined) throw refused(why)
        },
      },
    )
  }
}

/** The first request opens the rotation; a later one joins it, and an emergency takes it over. The same one may come twice. */
async function trigger(rotation: Rotation, request: RotationRequest): Promise<TriggerAnswer> {
  if (!rotation.requested) {
    // Between the look at it and this, the run may have found that nobody comes.
    refuseWhenEnding(rotation)
    rotation.accept(request)
  } else if (request.trigger === 'emergency' && isMoreUrgent(request, rotation)) {
    rotation.takeOver(request.reason, request.actor, 'emergency', request.policy.graceMs)
  }
  // Only then it is known which rotation it is, and that it can be had.
  await condition(() => rotation.onRecord || rotation.impossible !== undefined)
  if (rotation.impossible !== undefined) throw rotation.impossible
  const { rotationId } = rotation.request
  return { rotationId, trigger: rotation.trigger, joined: rotationId !== request.rotationId }
}

/** An emergency is taken over by one alone that leaves no grace where it leaves some. */
const isMoreUrgent = ({ policy }: RotationRequest, { emergency, graceLeftMs }: Rotation): boolean =>
  !emergency || (graceLeftMs !== undefined && policy.graceMs === undefined)

async function give(rotation: Rotation, order: RotationOrder, effect: OrderRule['effect']): Promise<RotationProgress> {
  const { stage, deadline } = rotation
  effect(rotation, order)
  // A moment's wait, so that the answer mostly shows the effect already.
  await condition(() => rotation.stage !== stage || rotation.deadline !== deadline, '1s')
  return rotation.progress()
}

interface OrderRule {
  /** Why the order can't be given now, for the person who gives it. */
  readonly refusal: (rotation: Rotation) => string | undefined
  readonly effect: (rotation: Rotation, order: RotationOrder) => void
}

const ORDERS: { readonly [update in RotationUpdate]: OrderRule } = {
  hold: {
    refusal: (rotation) => {
      if (rotation.emergency) return 'an emergency is not held'
      if (leaked(rotation)) return 'the old key has leaked: its end is not held'
      if (rotation.stage === 'held') return `the rotation is held already${heldText(rotation)}`
      return tooLate(rotation, 'only a rotation that has not begun to deactivate can be held')
    },
    effect: (rotation, { reason }) => {
      rotation.holdAsked = { reason }
    },
  },
  resume: {
    refusal: (rotation) => {
      if (rotation.stage !== 'held') return `only a held rotation can be resumed; this one is ${rotation.stage}`
      if (rotation.heldFor === 'receipt') return `the rotation waits for a gateway, and goes on by itself${heldText(rotation)}`
      return undefined
    },
    effect: (rotation) => rotation.resume(),
  },
  extend: {
    refusal: (rotation) => {
      if (rotation.emergency) return 'an emergency has no overlap window'
      if (leaked(rotation)) return 'the old key has leaked: its end does not move'
      if (rotation.deadline === undefined) return 'the overlap window has not begun: there is nothing to extend'
      return tooLate(rotation, 'only an overlap window that is open can be extended') ?? blocked(rotation)
    },
    effect: (rotation, { byMs, reason, actor }) => rotation.extend(byMs ?? rotation.policy.extendByMs, reason, actor),
  },
  approve: {
    refusal: (rotation) =>
      rotation.heldFor === 'deadline' || rotation.heldFor === 'approval'
        ? undefined
        : `nothing waits for approval: the rotation is ${rotation.stage}${heldText(rotation)}`,
    effect: (rotation, { reason, actor }) => {
      // What the policy asks for lets the rotation go on; at the deadline it is the word that the old key is to go.
      rotation[rotation.heldFor === 'approval' ? 'approved' : 'warrant'] = { reason, actor }
    },
  },
  deactivateNow: {
    refusal: (rotation) => {
      if (rotation.emergency) return 'in an emergency the old key goes first: there is nothing left to deactivate'
      const late = tooLate(rotation, 'the old key can only be deactivated while both keys are accepted')
      if (late !== undefined) return late
      if (!rotation.newKeyEverywhere)
        return 'the new key has not reached every live gateway yet: deactivating the old one would lock the client out'
      return blocked(rotation)
    },
    effect: (rotation, { reason, actor }) => {
      rotation.warrant = { reason, actor }
    },
  },
  rollBack: {
    refusal: (rotation) => {
      if (rotation.emergency) return 'the old key is compromised and never comes back: the rotation rolls forward'
      if (leaked(rotation)) return 'the old key has leaked and does not come back: the rotation rolls forward'
      if (rotation.goingBack) return 'the rotation is rolling back already'
      if (rotation.oldKeyExpired)
        return `the old key expired at ${isoOf(rotation.oldKey.expiresAt)}: no gateway would accept it again, and the client would have no key`
      return undefined
    },
    effect: (rotation, { reason, actor }) => rotation.turnBack(reason, actor),
  },
  escalate: {
    refusal: ({ emergency, graceLeftMs }) =>
      emergency && graceLeftMs === undefined ? 'the rotation is an emergency already' : undefined,
    effect: (rotation, { reason, actor }) => rotation.takeOver(reason, actor),
  },
}

const isoOf = (ms: number | undefined): string => (ms === undefined ? 'some time' : new Date(ms).toISOString())

const leaked = ({ leaks }: Rotation): boolean => leaks.oldKeyDiesAt !== undefined

/** Once the old key goes, or the rotation goes back, there is no overlap any more that an order could be about. */
function tooLate(rotation: Rotation, rule: string): string | undefined {
  if (rotation.goingBack) return `${rule}; this one is rolling back`
  if (rotation.oldKeyIs === 'accepted') return undefined
  return `${rule}; this one is deactivating its old key: it can be rolled back`
}

/** What the rotation is held for here has to be dealt with before anything else can be done. */
const blocked = (rotation: Rotation): string | undefined =>
  rotation.heldFor === 'receipt' || rotation.heldFor === 'failure'
    ? `the rotation is held${heldText(rotation)}: that comes first`
    : undefined

const refused = (message: string): ApplicationFailure => ApplicationFailure.nonRetryable(message, WRONG_STAGE)

function refuseWhenEnding(rotation: Rotation): void {
  if (isTerminal(rotation.stage))
    throw ApplicationFailure.nonRetryable(`the rotation has ended: ${rotation.stage}`, ROTATION_ENDED)
  if (rotation.closing || rotation.impossible !== undefined)
    throw ApplicationFailure.nonRetryable('the rotation is just ending', ROTATION_ENDED)
}

const heldText = (rotation: Rotation): string => {
  const { heldFor, unconfirmed } = rotation.progress()
  if (heldFor === undefined) return ''
  return unconfirmed.length === 0 ? ` (held for: ${heldFor})` : ` (held for: ${heldFor}; unconfirmed: ${unconfirmed.join(', ')})`
}
