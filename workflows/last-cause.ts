import type { ActivityFailure } from '@temporalio/workflow'

/** Why the last attempt at an activity failed, also where a time-out has ended them. */
export function lastCause(error: ActivityFailure): string {
  let cause: Error = error
  while (cause.cause instanceof Error) cause = cause.cause
  return cause.message
}
