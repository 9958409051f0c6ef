/** The log of every process: one JSON object a line, on standard output. Secrets are named here once and never written. */
import { type DestinationStream, type Logger, pino } from 'pino'

export type Log = Logger

const SECRET_FIELDS = [
  'authorization',
  'token',
  'operatorToken',
  'reporterToken',
  'gitguardianToken',
  'secret',
  'claim',
  'claimUrl',
  'code',
  'kek',
  'previousKek',
  'password',
  'postgresUrl',
  'connectionString',
]

/** `code` is a secret where it is a claim's; errors keep theirs, because `err` has a serializer of its own. */
const redacted = [
  ...SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]).filter((path) => path !== '*.code'),
  'req.headers["x-api-key"]',
  'req.headers.authorization',
  'headers["x-api-key"]',
]

interface LoggedError {
  readonly type: string
  readonly message: string
  readonly code?: string
  readonly stack?: string
  readonly cause?: LoggedError
}

/** Only what is listed: libraries hang requests, parameters and connection settings on their errors. */
function describeError(error: unknown, depth = 0): LoggedError {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) }
  const code = (error as { code?: unknown }).code
  return {
    type: error.name,
    message: error.message,
    ...(typeof code === 'string' ? { code } : {}),
    ...(error.stack === undefined ? {} : { stack: error.stack }),
    ...(error.cause === undefined || depth > 4 ? {} : { cause: describeError(error.cause, depth + 1) }),
  }
}

/**
 * @param name of the process, for example `api-server`
 * @param level pino's: trace, debug, info, warn, error, fatal, silent
 */
export function createLog(name: string, level = 'info', destination?: DestinationStream): Log {
  const options = {
    name,
    level,
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: { paths: redacted, censor: '[redacted]' },
    serializers: { err: (error: unknown) => describeError(error), error: (error: unknown) => describeError(error) },
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}
