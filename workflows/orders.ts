/** What people and the collector say to a running rotation: updates (validated), one signal, one query. */
import {
  type EvidenceFact,
  isTerminal,
  ROTATION_ENDED,
  type RotationOrder,
  type RotationProgress,
  type RotationRequest,
  type RotationStage,
  type TriggerAnswer,
  WRONG_STAGE,
} from '@keyturn/contract/rotation'
import { ApplicationFailure, condition, defineQuery, defineSignal, defineUpdate, setHandler } from '@temporalio/workflow'
import type { Rotation } from './rotation.ts'

export const triggerUpdate = defineUpdate<TriggerAnswer, [RotationRequest]>('trigger')
export const approveUpdate = defineUpdate<RotationProgress, [RotationOrder]>('approve')
export const holdUpdate = defineUpdate<RotationProgress, [RotationOrder]>('hold')
export const resumeUpdate = defineUpdate<RotationProgress, [RotationOrder]>('resume')
export const extendUpdate = defineUpdate<RotationProgress, [RotationOrder]>('extend')
export const deactivateNowUpdate = defineUpdate<RotationProgress, [RotationOrder]>('deactivateNow')
export const rollBackUpdate = defineUpdate<RotationProgress, [RotationOrder]>('rollBack')
export const escalateUpdate = defineUpdate<RotationProgress, [RotationOrder]>('escalate')
export const evidenceSignal = defineSignal<[EvidenceFact]>('evidence')
export const progressQuery = defineQuery<RotationProgress>('progress')

export function listen(rotation: Rotation): void {
  setHandler(progressQuery, () => rotation.progress())
  setHandler(evidenceSignal, (fact) => {
    rotation.facts.add(fact)
  })
  setHandler(triggerUpdate, (request: RotationRequest) => trigger(rotation, request), {
    validator: (_: RotationRequest) => refuseWhenEnded(rotation),
  })

  const order = (
    definition: typeof holdUpdate,
    check: (order: RotationOrder) => void,
    effect: (order: RotationOrder) => void,
  ): void =>
    setHandler(
      definition,
      async (given) => {
        const { stage, deadline } = rotation
        effect(given)
        // A moment's wait, so that the answer mostly shows the effect already.
        await condition(() => rotation.stage !== stage || rotation.deadline !== deadline, '1s')
        return rotation.progress()
      },
      {
        validator: (given) => {
          refuseWhenEnded(rotation)
          if (given.rotationId !== rotation.request.rotationId)
            throw refusal(`another rotation of this credential is running: ${rotation.request.rotationId}`)
          check(given)
        },
      },
    )

  order(
    holdUpdate,
    () => {
      requireStage(
        rotation,
        ['requested', 'introducing', 'notifying', 'monitoring'],
        'only a rotation that has not begun to deactivate can be held',
      )
      refuseInEmergency(rotation, 'an emergency is not held')
    },
    ({ reason }) => {
      rotation.holdAsked = { reason }
    },
  )
  order(
    resumeUpdate,
    () => {
      requireStage(rotation, ['held'], 'only a held rotation can be resumed')
      refuseWithoutReceipt(rotation)
    },
    () => rotation.resume(),
  )
  order(
    extendUpdate,
    () => {
      requireStage(rotation, ['notifying', 'monitoring', 'held'], 'only an overlap window that is open can be extended')
      if (rotation.deadline === undefined) throw refusal('the overlap window has not begun: there is nothing to extend')
    },
    ({ byMs, reason, actor }) => rotation.extend(byMs ?? rotation.policy.extendByMs, reason, actor),
  )
  order(
    approveUpdate,
    () => {
      if (rotation.heldFor !== 'deadline')
        throw refusal(`nothing waits for approval: the rotation is ${rotation.stage}${heldText(rotation)}`)
    },
    ({ reason, actor }) => {
      rotation.warrant = { reason, actor }
    },
  )
  order(
    deactivateNowUpdate,
    () => {
      requireStage(
        rotation,
        ['notifying', 'monitoring', 'held'],
        'the old key can only be deactivated while both keys are accepted',
      )
      if (!rotation.newKeyEverywhere)
        throw refusal('the new key has not reached every live gateway yet: deactivating the old one would lock the client out')
    },
    ({ reason, actor }) => {
      rotation.warrant = { reason, actor }
    },
  )
  order(
    rollBackUpdate,
    () => {
      refuseInEmergency(rotation, 'the old key is compromised and never comes back: the rotation rolls forward')
      if (rotation.stage === 'rolling-back') throw refusal('the rotation is rolling back already')
    },
    ({ reason, actor }) => rotation.turnBack(reason, actor),
  )
  order(
    escalateUpdate,
    () => refuseInEmergency(rotation, 'the rotation is an emergency already'),
    ({ reason, actor }) => rotation.takeOver(reason, actor),
  )
}

/** The first request opens the rotation; a later one joins it, and an emergency takes it over. */
function trigger(rotation: Rotation, request: RotationRequest): TriggerAnswer {
  const opens = !rotation.requested
  if (opens) rotation.accept(request)
  else if (request.trigger === 'emergency' && rotation.trigger !== 'emergency') rotation.takeOver(request.reason, request.actor)
  return { rotationId: rotation.request.rotationId, trigger: rotation.trigger, joined: !opens }
}

const refusal = (message: string): ApplicationFailure => ApplicationFailure.nonRetryable(message, WRONG_STAGE)

function refuseWhenEnded(rotation: Rotation): void {
  if (isTerminal(rotation.stage))
    throw ApplicationFailure.nonRetryable(`the rotation has ended: ${rotation.stage}`, ROTATION_ENDED)
}

function requireStage(rotation: Rotation, stages: readonly RotationStage[], rule: string): void {
  if (!stages.includes(rotation.stage)) throw refusal(`${rule}; this one is ${rotation.stage}`)
}

function refuseInEmergency(rotation: Rotation, rule: string): void {
  if (rotation.trigger === 'emergency') throw refusal(rule)
}

function refuseWithoutReceipt(rotation: Rotation): void {
  if (rotation.heldFor === 'receipt')
    throw refusal(`the rotation waits for a gateway, and goes on by itself${heldText(rotation)}`)
}

const heldText = (rotation: Rotation): string => {
  const { heldFor, unconfirmed } = rotation.progress()
  if (heldFor === undefined) return ''
  return unconfirmed.length === 0 ? ` (held for: ${heldFor})` : ` (held for: ${heldFor}; unconfirmed: ${unconfirmed.join(', ')})`
}
