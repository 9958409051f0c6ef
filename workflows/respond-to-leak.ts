import type { LeakId, RotationEnd } from '@keyturn/contract'
import { formatDuration } from '@keyturn/contract/duration'
import { rotationWorkflowId } from '@keyturn/contract/ids'
import { defineSearchAttributeKey, WorkflowExecutionAlreadyStartedError } from '@temporalio/common'
import {
  ApplicationFailure,
  condition,
  getExternalWorkflowHandle,
  isCancellation,
  ParentClosePolicy,
  setHandler,
  sleep,
  startChild,
} from '@temporalio/workflow'
import type { LeakSteps } from '../activities/leaks.ts'
import type { FirstTry } from '../activities/notification.ts'
import { goOnWith } from './deliveries.ts'
import { leakSignal } from './orders.ts'
import { alerts, leaks, notifications, receipts } from './proxies.ts'
import type { rotateCredential } from './rotate-credential.ts'
import { rotationEndedSignal } from './rotation-leaks.ts'

const CLIENT = defineSearchAttributeKey('KeyturnClient', 'KEYWORD')
const ENVIRONMENT = defineSearchAttributeKey('KeyturnEnvironment', 'KEYWORD')
const TRIGGER = defineSearchAttributeKey('KeyturnTrigger', 'KEYWORD')

/** How often a rotation is asked that does not take the leak. */
const MOST_ATTEMPTS = 20
const LONGEST_PAUSE_MS = 5 * 60_000
/** After this a rotation that was asked is asked again: somebody may have ended it by force. */
const ASK_AGAIN_MS = 86_400_000
const GRACE_MS = 60_000
const PATIENCE_MS = 2 * 60_000
const LONGEST_DETAIL = 500

export interface RespondToLeakInput {
  readonly leakId: LeakId
}

/**
 * Answers one leak: contains it, has the key replaced (by a rotation of its own, or by the one that runs), and closes it with the
 * evidence of who has used the key since. Its workflow id is `leak/<leakId>`.
 */
export async function respondToLeak({ leakId }: RespondToLeakInput): Promise<void> {
  const ends: RotationEnd[] = []
  setHandler(rotationEndedSignal, (end) => {
    ends.push(end)
  })
  const begunAt = Date.now()
  const first = await leaks.containLeak({ leakId, at: begunAt, force: false })
  const refused = refusedEverywhere(leakId, first)
  await alert(first, first.atOnce ? 'it is compromised' : `it dies within ${formatDuration(first.overlapMs)}`)

  let steps = first
  for (let failed = 0; steps.rotationNeeded; ) {
    if (!(await rotate(steps, ends))) {
      failed += 1
      if (failed > MOST_ATTEMPTS) await giveUp(leakId, steps)
      await sleep(Math.min(LONGEST_PAUSE_MS, 500 * 2 ** failed))
    }
    // A key whose rotation is out of reach dies all the same when its time has come.
    steps = await leaks.containLeak({ leakId, at: Date.now(), force: Date.now() >= begunAt + first.overlapMs + GRACE_MS })
  }
  await refused
  // Whoever was in a rotation has been told by it.
  if (!first.rotationNeeded) await tellClient(leakId, first)
  await close(leakId, first)
}

/** Waits until no gateway accepts the key any more; as long as it takes, where one stays away. */
async function refusedEverywhere(leakId: LeakId, { publication }: LeakSteps): Promise<void> {
  if (publication !== undefined) await receipts.awaitLeakReceipt({ leakId, publication })
}

/**
 * Starts the credential's rotation, which goes on with one whose workflow is gone; or tells the one that runs. Waits for its end.
 * @returns false when it could not be opened, or does not hear
 */
async function rotate(steps: LeakSteps, ends: readonly RotationEnd[]): Promise<boolean> {
  const { credentialId, clientId, environment, request } = steps
  try {
    const rotation = await startChild<typeof rotateCredential>('rotateCredential', {
      workflowId: rotationWorkflowId(credentialId),
      parentClosePolicy: ParentClosePolicy.ABANDON,
      args: [{ credentialId, request }],
      typedSearchAttributes: [
        { key: CLIENT, value: clientId },
        { key: ENVIRONMENT, value: environment },
        { key: TRIGGER, value: 'leak' },
      ],
    })
    await rotation.result()
    return true
  } catch (error) {
    if (isCancellation(error)) throw error
    return error instanceof WorkflowExecutionAlreadyStartedError ? join(steps, ends) : false
  }
}

/** Tells the rotation that runs, and waits for its end. @returns false when it has just ended */
async function join({ credentialId, request, atOnce, overlapMs }: LeakSteps, ends: readonly RotationEnd[]): Promise<boolean> {
  const before = ends.length
  try {
    await getExternalWorkflowHandle(rotationWorkflowId(credentialId)).signal(leakSignal, request.leak)
  } catch (error) {
    if (isCancellation(error)) throw error
    return false
  }
  await condition(() => ends.length > before, atOnce ? ASK_AGAIN_MS : overlapMs + GRACE_MS)
  return true
}

async function giveUp(leakId: LeakId, steps: LeakSteps): Promise<never> {
  await leaks.containLeak({ leakId, at: Date.now(), force: true })
  await alert(steps, 'it is compromised, but its rotation is out of reach: see that the client gets a new key')
  throw ApplicationFailure.nonRetryable(`leak ${leakId}: the rotation of ${steps.credentialId} is out of reach`)
}

async function tellClient(leakId: LeakId, steps: LeakSteps): Promise<void> {
  try {
    const tried: FirstTry | undefined = await notifications.notifyOfLeak({ leakId, at: Date.now() })
    // It alerts by itself where nobody is reached.
    if (tried?.left !== undefined) await goOnWith(tried.left)
  } catch (error) {
    if (isCancellation(error)) throw error
    await alert(steps, 'the client could not be told')
  }
}

/** Closes the leak when it is known who used the key to its end; where a gateway's reports do not come, without. */
async function close(leakId: LeakId, steps: LeakSteps): Promise<void> {
  const use = await receipts.closeLeak({ leakId, at: Date.now(), patienceMs: PATIENCE_MS })
  if (use.newSources > 0)
    await alert(steps, `${use.requests} requests since, and ${use.newSources} sources that were not seen before`)
}

/** People hear of it; that nobody could be told is no reason to stop. */
async function alert({ keyId, credentialId, reason }: LeakSteps, what: string): Promise<void> {
  const detail = `key ${keyId} has leaked: ${what} (${reason})`.slice(0, LONGEST_DETAIL)
  try {
    await alerts.raiseAlert({ kind: 'leak', credentialId, detail })
  } catch (error) {
    if (isCancellation(error)) throw error
  }
}
