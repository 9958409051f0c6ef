/** The Temporal Schedules that run policies: one for each, made and removed with it. The registry says which there should be. */
import { POLICY_CHANGED, POLICY_RUN_MS, policyScheduleId, policySchedulePrefix } from '@keyturn/contract'
import {
  type Client,
  isGrpcServiceError,
  ScheduleAlreadyRunning,
  ScheduleNotFoundError,
  ScheduleOverlapPolicy,
  WorkflowNotFoundError,
} from '@temporalio/client'
import type { runPolicy } from '../workflows/index.ts'

/** A call to Temporal may take so long before it counts as away. */
const DEADLINE_MS = 5_000
/** A run that was missed is not made up for: the next one starts whatever is due. */
const CATCH_UP_MS = 60_000
/** gRPC's number for UNIMPLEMENTED. */
const UNIMPLEMENTED = 12

const soon = <T>(client: Client, work: () => Promise<T>): Promise<T> => client.withDeadline(Date.now() + DEADLINE_MS, work)

/** Policies are not all run at the same moment; each always at the same one. */
function offsetOf(policy: string): number {
  let hash = 0
  for (const letter of policy) hash = (hash * 31 + letter.charCodeAt(0)) % POLICY_RUN_MS
  return hash
}

async function ensureSchedule(client: Client, taskQueue: string, policy: string): Promise<void> {
  const scheduleId = policyScheduleId(taskQueue, policy)
  try {
    await soon(client, () =>
      client.schedule.create<typeof runPolicy>({
        scheduleId,
        spec: { intervals: [{ every: POLICY_RUN_MS, offset: offsetOf(policy) }] },
        policies: { overlap: ScheduleOverlapPolicy.BUFFER_ONE, catchupWindow: CATCH_UP_MS },
        action: { type: 'startWorkflow', workflowType: 'runPolicy', workflowId: scheduleId, taskQueue, args: [{ policy }] },
      }),
    )
  } catch (error) {
    if (!(error instanceof ScheduleAlreadyRunning)) throw error
  }
}

async function dropSchedule(client: Client, scheduleId: string): Promise<void> {
  try {
    await soon(client, () => client.schedule.getHandle(scheduleId).delete())
  } catch (error) {
    if (!(error instanceof ScheduleNotFoundError)) throw error
  }
}

/** Tells a run that is going on to look at its policy again. */
async function tellRuns(client: Client, scheduleId: string): Promise<void> {
  const { info } = await soon(client, () => client.schedule.getHandle(scheduleId).describe())
  for (const running of info.runningActions) {
    if (running.type !== 'startWorkflow') continue
    try {
      await soon(client, () => client.workflow.getHandle(running.workflow.workflowId).signal(POLICY_CHANGED))
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error
    }
  }
}

/** After a change: there is a schedule, or none any more, and a run that is going on knows. */
export async function syncSchedule(
  client: Client,
  taskQueue: string,
  { name, removed }: { name: string; removed: boolean },
): Promise<void> {
  const scheduleId = policyScheduleId(taskQueue, name)
  try {
    await tellRuns(client, scheduleId)
  } catch (error) {
    if (!(error instanceof ScheduleNotFoundError)) throw error
  }
  if (removed) await dropSchedule(client, scheduleId)
  else await ensureSchedule(client, taskQueue, name)
}

/**
 * Makes what is missing and removes what is too much, for changes that were made while Temporal was away.
 * @param policies reads the names of all policies; after the schedules have been listed, so that a fresh one is not taken for one too many
 * @returns whether this server has schedules at all: the one that skips time has none
 */
export async function reconcileSchedules(client: Client, taskQueue: string, policies: () => Promise<string[]>): Promise<boolean> {
  const prefix = policySchedulePrefix(taskQueue)
  const there: string[] = []
  try {
    for await (const { scheduleId } of client.schedule.list()) if (scheduleId.startsWith(prefix)) there.push(scheduleId)
  } catch (error) {
    const { cause } = error as { cause?: unknown }
    const grpc = isGrpcServiceError(error) ? error : cause
    if (isGrpcServiceError(grpc) && grpc.code === UNIMPLEMENTED) return false
    throw error
  }
  const wanted = await policies()
  for (const name of wanted) {
    if (!there.includes(policyScheduleId(taskQueue, name))) await ensureSchedule(client, taskQueue, name)
  }
  for (const scheduleId of there) {
    if (!wanted.includes(scheduleId.slice(prefix.length))) await dropSchedule(client, scheduleId)
  }
  return true
}
