/** How the API talks to the rotation workflows: one order at a time, each with a deadline. */
import {
  type ClientId,
  type CredentialId,
  type Environment,
  PROBLEMS,
  type ProblemCode,
  ROTATION_ENDED,
  type RotationOrder,
  type RotationProgress,
  type RotationRequest,
  type RotationUpdate,
  rotationWorkflowId,
  type TriggerAnswer,
} from '@keyturn/contract'
import {
  type Client,
  isGrpcServiceError,
  WithStartWorkflowOperation,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
} from '@temporalio/client'
import { ApplicationFailure, defineSearchAttributeKey } from '@temporalio/common'
import type { rotateCredential } from '../workflows/index.ts'
import { ApiError } from './problems.ts'

/** An update is answered within a second or two when a worker is there. */
export const UPDATE_DEADLINE_MS = 10_000
/** A run that is just closing refuses what comes too late for it; an attempt after that starts a new run. */
const CLOSING_WITHIN_MS = 15_000
const PAUSE_MS = 100
/** A run that was started for an update that is lost is in the way of all that comes after, and ends by itself. */
const REQUEST_WITHIN_MS = 60_000

const CLIENT = defineSearchAttributeKey('KeyturnClient', 'KEYWORD')
const ENVIRONMENT = defineSearchAttributeKey('KeyturnEnvironment', 'KEYWORD')
const TRIGGER = defineSearchAttributeKey('KeyturnTrigger', 'KEYWORD')

export interface RotationTarget {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: Environment
}

/**
 * Starts the credential's rotation; or joins, or takes over, the one that runs.
 * @throws ApiError with the registry's code when it does not open one
 */
export async function triggerRotation(
  client: Client,
  taskQueue: string,
  target: RotationTarget,
  request: RotationRequest,
): Promise<TriggerAnswer> {
  for (const giveUpAt = Date.now() + CLOSING_WITHIN_MS; ; ) {
    try {
      return await client.withDeadline(Date.now() + UPDATE_DEADLINE_MS, () =>
        client.workflow.executeUpdateWithStart<typeof rotateCredential, TriggerAnswer, [RotationRequest]>('trigger', {
          startWorkflowOperation: new WithStartWorkflowOperation<typeof rotateCredential>('rotateCredential', {
            workflowId: rotationWorkflowId(target.credentialId),
            taskQueue,
            workflowIdConflictPolicy: 'USE_EXISTING',
            workflowIdReusePolicy: 'ALLOW_DUPLICATE',
            args: [{ credentialId: target.credentialId, requestWithinMs: REQUEST_WITHIN_MS }],
            typedSearchAttributes: [
              { key: CLIENT, value: target.clientId },
              { key: ENVIRONMENT, value: target.environment },
              { key: TRIGGER, value: request.trigger },
            ],
          }),
          args: [request],
          // A second try of the same request finds the first one.
          updateId: request.rotationId,
        }),
      )
    } catch (error) {
      const refusal = refusalOf(error)
      if (refusal !== undefined) throw refusal
      if (Date.now() > giveUpAt || !isClosing(error)) throw error
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    }
  }
}

/**
 * Gives an order to a running rotation.
 * @throws ApiError `wrong-stage` when the workflow refuses it, or has ended
 */
export async function orderRotation(
  client: Client,
  target: CredentialId,
  update: RotationUpdate,
  order: RotationOrder,
): Promise<RotationProgress> {
  const handle = client.workflow.getHandle(rotationWorkflowId(target))
  try {
    return await client.withDeadline(Date.now() + UPDATE_DEADLINE_MS, () =>
      handle.executeUpdate<RotationProgress, [RotationOrder]>(update, { args: [order] }),
    )
  } catch (error) {
    const refusal = refusalOf(error)
    if (refusal !== undefined) throw refusal
    if (error instanceof WorkflowNotFoundError) throw new ApiError('wrong-stage', NOBODY_THERE)
    if (isClosing(error)) throw new ApiError('wrong-stage', 'The rotation has ended.')
    throw error
  }
}

const NOBODY_THERE =
  'The rotation has just ended, or its workflow was terminated: in that case, trigger a rotation of the credential, which goes on with this one.'

/** What the workflow has refused, with a code of the closed list. */
export function refusalOf(error: unknown): ApiError | undefined {
  if (!(error instanceof WorkflowUpdateFailedError) || !(error.cause instanceof ApplicationFailure)) return undefined
  const { type, message } = error.cause
  return typeof type === 'string' && type in PROBLEMS ? new ApiError(type as ProblemCode, message) : undefined
}

/** The workflow has ended, or is about to. */
export function isClosing(error: unknown): boolean {
  if (error instanceof WorkflowNotFoundError) return true
  if (error instanceof WorkflowUpdateFailedError) {
    const { cause } = error
    return (
      cause instanceof ApplicationFailure && (cause.type === ROTATION_ENDED || cause.type === 'AcceptedUpdateCompletedWorkflow')
    )
  }
  // An update-with-start fails as a whole (ABORTED) or says that the run is gone (NOT_FOUND).
  const grpc = isGrpcServiceError(error) ? error : (error as { cause?: unknown }).cause
  return isGrpcServiceError(grpc) && (grpc.code === 5 || grpc.code === 10)
}
