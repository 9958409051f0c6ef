import type { CredentialId, RotationRequest, RotationStage } from '@keyturn/contract'
import { ActivityFailure, allHandlersFinished, CancellationScope, condition, patched } from '@temporalio/workflow'
import type { OpenedRotation } from '../activities/rotations.ts'
import { listen } from './orders.ts'
import { records } from './proxies.ts'
import { Rotation } from './rotation.ts'
import { waitForApproval } from './stages/approval.ts'
import { finish, switchOff } from './stages/deactivate.ts'
import { grace } from './stages/grace.ts'
import { introduce } from './stages/introduce.ts'
import { killFirst } from './stages/kill-first.ts'
import { killNewKey } from './stages/kill-new-key.ts'
import { monitor } from './stages/monitor.ts'
import { notify } from './stages/notify.ts'
import { rollBack } from './stages/roll-back.ts'
import { TurnTaken } from './turns.ts'

export interface RotateCredentialInput {
  readonly credentialId: CredentialId
  /** Given when a parent starts the rotation; otherwise the update `trigger` brings it. */
  readonly request?: RotationRequest
  /**
   * A run that the update does not reach within that ends by itself. In a history from before there was such a limit it is absent.
   */
  readonly requestWithinMs?: number
}

/** One rotation of one credential: from the old key to the new one, or back. Its workflow id is `rotation/<credentialId>`. */
export async function rotateCredential(input: RotateCredentialInput): Promise<RotationStage> {
  const rotation = new Rotation(input.credentialId, input.request)
  listen(rotation)
  if (!(await isRequested(rotation, input.requestWithinMs))) return endUnrequested(rotation)
  // From here a cancellation is an order like others: it rolls back, in good order.
  CancellationScope.current().cancelRequested.catch(() => rotation.turnBack('the workflow was cancelled', 'temporal'))
  return CancellationScope.nonCancellable(() => run(rotation))
}

/**
 * Waits for the request. The update that brings it can be lost, for Temporal stores it only when a worker has accepted it; the run that was
 * started for it would be in the way of every policy and every leak.
 */
async function isRequested(rotation: Rotation, withinMs: number | undefined): Promise<boolean> {
  const awake = () => rotation.requested || rotation.leaks.waitForEnd
  if (withinMs !== undefined) await condition(awake, withinMs)
  else {
    await condition(awake)
    if (!rotation.requested && !patched('leak-ends-unrequested')) await condition(() => rotation.requested)
  }
  rotation.closing = !rotation.requested
  return rotation.requested
}

/** A request that comes now is refused, and begins a run of its own; so does a leak that was heard of. */
async function endUnrequested(rotation: Rotation): Promise<RotationStage> {
  await condition(allHandlersFinished)
  await rotation.leaks.tellEnd({ stage: rotation.stage })
  return rotation.stage
}

type Course = (rotation: Rotation) => Promise<void>

const COURSES: Readonly<Record<'replace' | 'roll-back' | 'emergency', Course>> = {
  replace,
  'roll-back': rollBack,
  emergency,
}

async function run(rotation: Rotation): Promise<RotationStage> {
  const { left } = await open(rotation)
  let course = COURSES[rotation.emergency ? 'emergency' : (left?.course ?? 'replace')]
  while (!rotation.ended) {
    try {
      await course(rotation)
    } catch (error) {
      course = await nextCourse(rotation, course, error)
    }
  }
  await condition(allHandlersFinished)
  await rotation.leaks.tellEnd({ rotationId: rotation.request.rotationId, stage: rotation.stage })
  return rotation.stage
}

/** Puts the rotation on record. When that is refused for good, whoever has asked for it hears why. */
async function open(rotation: Rotation): Promise<OpenedRotation> {
  try {
    const opened = await records.openRotation({ ...rotation.request, credentialId: rotation.credentialId, at: Date.now() })
    rotation.opened(opened)
    return opened
  } catch (error) {
    rotation.refused(error)
    await condition(allHandlersFinished)
    await rotation.leaks.tellEnd({ rotationId: rotation.request.rotationId, stage: rotation.stage })
    throw error
  }
}

/**
 * The way that a rotation takes when nothing goes wrong. Every step is idempotent: it is walked again after a failure, and by a
 * run that goes on where another one was terminated.
 */
async function replace(rotation: Rotation): Promise<void> {
  if (rotation.oldKeyIs !== 'off') {
    while (await waitForApproval(rotation, 'introducing'));
    // A leak of the old key shortens a window that may be open already: the new key stays as it is.
    const { leaks, newKeyEverywhere, newKey } = rotation
    const given = leaks.oldKeyDiesAt !== undefined && newKeyEverywhere ? newKey : undefined
    await notify(rotation, given ?? (await introduce(rotation)))
    let off = false
    while (!off) {
      const warrant = await monitor(rotation)
      // Time has passed while it waited: the evidence is looked at anew.
      if (warrant === undefined && (await waitForApproval(rotation, 'deactivating'))) continue
      off = await switchOff(rotation, warrant)
    }
  }
  await finish(rotation)
}

/** The old key dies before anything else; or, where the client must not stop, once it has had its time to switch over. */
async function emergency(rotation: Rotation): Promise<void> {
  const { graceLeftMs } = rotation
  if (graceLeftMs !== undefined) await grace(rotation, graceLeftMs)
  await killFirst(rotation)
}

/** Where a rotation goes that was turned. A new key that has leaked dies before anything else. */
function turned(rotation: Rotation): Course {
  const { leaks } = rotation
  // It leaked while it was being switched off: what is left is to make that final.
  if (leaks.oldKeyDiesAt !== undefined && rotation.oldKeyIs === 'off' && !rotation.emergency) rotation.becomeEmergency('leak')
  const course = COURSES[rotation.emergency ? 'emergency' : rotation.goingBack ? 'roll-back' : 'replace']
  if (leaks.newKeyLeak === undefined) return course
  return async () => {
    await killNewKey(rotation)
    await course(rotation)
  }
}

/** What to do when a course was broken off: by a person, by the evidence, by cancellation, or by a step that failed for good. */
async function nextCourse(rotation: Rotation, course: Course, error: unknown): Promise<Course> {
  if (error instanceof TurnTaken) return turned(rotation)
  if (!(error instanceof ActivityFailure)) throw error
  try {
    await rotation.hold('failure', error.cause?.message ?? error.message)
    return course
  } catch (thrown) {
    if (thrown instanceof TurnTaken) return turned(rotation)
    // The registry refuses even that: it does not know this rotation, or knows it as ended. Nothing is left to be done here.
    throw thrown
  }
}
