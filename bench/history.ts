/** What a workflow's history tells of its steps. */
import type { BenchHouse } from './house.ts'

/** When the first activity of a type was scheduled and when it started, in milliseconds of the epoch. */
export async function firstActivity(
  { temporal }: BenchHouse,
  workflowId: string,
  type: string,
): Promise<{ scheduled: number; started: number }> {
  const { events } = await temporal.workflow.getHandle(workflowId).fetchHistory()
  const timed = (events ?? []).map((event) => ({
    event,
    at: Number(event.eventTime?.seconds ?? 0) * 1_000 + (event.eventTime?.nanos ?? 0) / 1e6,
  }))
  const scheduled = timed.find(({ event }) => event.activityTaskScheduledEventAttributes?.activityType?.name === type)
  const startedOf = scheduled?.event.eventId
  const started = timed.find(
    ({ event }) =>
      startedOf !== undefined &&
      startedOf !== null &&
      event.activityTaskStartedEventAttributes?.scheduledEventId?.equals(startedOf),
  )
  if (scheduled === undefined || started === undefined)
    throw new Error(`the history of ${workflowId} does not show how ${type} began`)
  return { scheduled: scheduled.at, started: started.at }
}
