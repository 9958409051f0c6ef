import type { CredentialId, RotationRequest, RotationStage } from '@keyturn/contract'
import { ActivityFailure, allHandlersFinished, CancellationScope, condition, isCancellation } from '@temporalio/workflow'
import { listen } from './orders.ts'
import { records } from './proxies.ts'
import { Rotation, TurnTaken } from './rotation.ts'
import { deactivate } from './stages/deactivate.ts'
import { introduce } from './stages/introduce.ts'
import { killFirst } from './stages/kill-first.ts'
import { monitor } from './stages/monitor.ts'
import { notify } from './stages/notify.ts'
import { rollBack } from './stages/roll-back.ts'

export interface RotateCredentialInput {
  readonly credentialId: CredentialId
  /** Given when a parent starts the rotation; otherwise the update `trigger` brings it. */
  readonly request?: RotationRequest
}

/** One rotation of one credential: from the old key to the new one, or back. Its workflow id is `rotation/<credentialId>`. */
export async function rotateCredential(input: RotateCredentialInput): Promise<RotationStage> {
  const rotation = new Rotation(input.credentialId, input.request)
  listen(rotation)
  await condition(() => rotation.requested)
  const { oldKey } = await records.openRotation({ ...rotation.request, credentialId: input.credentialId, at: Date.now() })
  rotation.opened(oldKey)

  let course = rotation.trigger === 'emergency' ? killFirst : replace
  while (!rotation.ended) {
    try {
      await course(rotation)
    } catch (error) {
      course = await nextCourse(rotation, course, error)
    }
  }
  await condition(allHandlersFinished)
  return rotation.stage
}

type Course = (rotation: Rotation) => Promise<void>

/** The way that a rotation takes when nothing goes wrong. Every step is idempotent, so that it may be walked again after a failure. */
async function replace(rotation: Rotation): Promise<void> {
  await notify(rotation, await introduce(rotation))
  let done = false
  while (!done) done = await deactivate(rotation, await monitor(rotation))
}

/** What to do when a course was broken off: by a person, by the evidence, by cancellation, or by a step that failed for good. */
async function nextCourse(rotation: Rotation, course: Course, error: unknown): Promise<Course> {
  if (error instanceof TurnTaken) return error.turn.course === 'emergency' ? killFirst : rollBack
  if (isCancellation(error)) {
    rotation.turnBack('the workflow was cancelled', 'temporal')
    return () => CancellationScope.nonCancellable(() => rollBack(rotation))
  }
  if (!(error instanceof ActivityFailure)) throw error
  try {
    await rotation.hold('failure', error.cause?.message ?? error.message)
    return course
  } catch (turn) {
    return nextCourse(rotation, course, turn)
  }
}
