/** The log of a gateway: one JSON object a line. No request header and no token is ever handed to it. */
import { type DestinationStream, type Logger, pino } from 'pino'

export type Log = Logger

/** Only what is listed: libraries hang requests and connection settings on their errors. */
function describeError(error: unknown, depth = 0): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) }
  const code = (error as { code?: unknown }).code
  return {
    type: error.name,
    message: error.message,
    ...(typeof code === 'string' ? { code } : {}),
    ...(error.cause === undefined || depth > 4 ? {} : { cause: describeError(error.cause, depth + 1) }),
  }
}

/** @param level pino's: trace, debug, info, warn, error, fatal, silent */
export function createLog(level = 'info', destination?: DestinationStream): Log {
  const options = {
    name: 'keyturn-gateway',
    level,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: (error: unknown) => describeError(error) },
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}

/**
 * Lets one message of a kind through every `everyMs` and says how many were held back since. A flood of poisoned messages
 * must not become a flood of log lines.
 */
export function createThrottle(everyMs = 10_000): (kind: string, write: (heldBack: number) => void) => void {
  const kinds = new Map<string, { at: number; heldBack: number }>()
  return (kind, write) => {
    const now = performance.now()
    const last = kinds.get(kind)
    if (last !== undefined && now - last.at < everyMs) {
      last.heldBack += 1
      return
    }
    kinds.set(kind, { at: now, heldBack: 0 })
    write(last?.heldBack ?? 0)
  }
}
