/** Stores that are servers. */
import { StoreError } from '../store.ts'

const TIMEOUT_MS = 10_000

/** The signal of one request: it takes no longer than 10 s. */
export function within(signal: AbortSignal | undefined): AbortSignal {
  const limit = AbortSignal.timeout(TIMEOUT_MS)
  return signal === undefined ? limit : AbortSignal.any([signal, limit])
}

/** The error of a request without an answer. The caller's own abort is passed on as it is. */
export function noAnswer(error: unknown, signal: AbortSignal | undefined, where: string): unknown {
  if (signal?.aborted === true) return signal.reason
  return new StoreError('unreachable', `${where} does not answer (${reasonOf(error)}). Trying again may help.`, { cause: error })
}

/** A token or credentials from the caller's own function. What that throws may be anything, and may pass: theirs come from servers, too. */
export async function provided<T>(provide: () => T | Promise<T>, where: string): Promise<T> {
  try {
    return await provide()
  } catch (error) {
    if (error instanceof StoreError) throw error
    const message = `There are no credentials for ${where} (${reasonOf(error)}). Trying again may help.`
    throw new StoreError('unreachable', message, { cause: error })
  }
}

/** What went wrong with a connection, in a word: its code where it has one. */
function reasonOf(error: unknown): string {
  const { name, code, cause } = Object(error) as { name?: string; code?: unknown; cause?: unknown }
  if (typeof code === 'string') return code
  if (cause !== undefined && cause !== null) return reasonOf(cause)
  return name === 'TimeoutError' ? 'it took too long' : (name ?? 'error')
}

/** @returns undefined when it is not JSON */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
