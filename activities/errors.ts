import type { ProblemCode } from '@keyturn/contract'
import { ApplicationFailure } from '@temporalio/activity'
import { RegistryError, sqlState } from '../registry/errors.ts'

/** The registry's answers that no retry changes. Everything else (a server that is away, a lock, a time-out) is tried again. */
const FINAL: ReadonlySet<ProblemCode> = new Set([
  'unknown-credential',
  'unknown-rotation',
  'unknown-leak',
  'unknown-rollover',
  'illegal-transition',
  'not-found',
])

/** The class of SQLSTATEs of values that PostgreSQL can not store, or read: the same ones every time. */
const DATA_EXCEPTION = '22'

/**
 * Wraps each activity so that a final refusal of the registry ends its retries, with the registry's code as failure type; so does a value that
 * PostgreSQL can not store.
 */
export function withFinalRefusals<A extends Record<string, (...args: never[]) => Promise<unknown>>>(activities: A): A {
  const wrap =
    <Args extends never[], R>(activity: (...args: Args) => Promise<R>) =>
    async (...args: Args): Promise<R> => {
      try {
        return await activity(...args)
      } catch (error) {
        if (error instanceof RegistryError && FINAL.has(error.code))
          throw ApplicationFailure.nonRetryable(error.message, error.code)
        const state = sqlState(error)
        // Its own words may repeat the value.
        if (state?.startsWith(DATA_EXCEPTION) === true && state.length === 5)
          throw ApplicationFailure.nonRetryable(`PostgreSQL refuses a value (SQLSTATE ${state})`, 'data-exception')
        throw error
      }
    }
  return Object.fromEntries(Object.entries(activities).map(([name, activity]) => [name, wrap(activity)])) as A
}
