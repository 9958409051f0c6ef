/** How rollovers and their workflows find each other. */
import {
  type RolloverId,
  type RolloverOrder,
  type RolloverProgress,
  type RolloverUpdate,
  rolloverWorkflowId,
} from '@keyturn/contract'
import { type Client, WorkflowNotFoundError } from '@temporalio/client'
import type { rollOverFleet } from '../workflows/index.ts'
import { ApiError } from './problems.ts'
import { isClosing, refusalOf, UPDATE_DEADLINE_MS } from './temporal.ts'

/** Starts the workflow that looks after a rollover, unless it runs: so it may be called again and again until the rollover has ended. */
export async function startRollover(client: Client, taskQueue: string, rolloverId: RolloverId): Promise<void> {
  await client.withDeadline(Date.now() + UPDATE_DEADLINE_MS, () =>
    client.workflow.start<typeof rollOverFleet>('rollOverFleet', {
      workflowId: rolloverWorkflowId(rolloverId),
      taskQueue,
      workflowIdConflictPolicy: 'USE_EXISTING',
      workflowIdReusePolicy: 'ALLOW_DUPLICATE',
      args: [{ rolloverId }],
    }),
  )
}

/**
 * Gives an order to a rollover.
 * @throws ApiError `wrong-stage` when the workflow refuses it, or is not there
 */
export async function orderRollover(
  client: Client,
  rolloverId: RolloverId,
  update: RolloverUpdate,
  order: RolloverOrder,
): Promise<RolloverProgress> {
  try {
    return await client.withDeadline(Date.now() + UPDATE_DEADLINE_MS, () =>
      client.workflow
        .getHandle(rolloverWorkflowId(rolloverId))
        .executeUpdate<RolloverProgress, [RolloverOrder]>(update, { args: [order] }),
    )
  } catch (error) {
    const refusal = refusalOf(error)
    if (refusal !== undefined) throw refusal
    if (error instanceof WorkflowNotFoundError)
      throw new ApiError(
        'wrong-stage',
        'The workflow of this rollover has not begun yet, or has just ended: try again in a moment.',
      )
    if (isClosing(error)) throw new ApiError('wrong-stage', 'The rollover has ended.')
    throw error
  }
}
