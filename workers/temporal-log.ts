/** What Temporal's SDK says goes into our log, one JSON object a line; by itself it writes to standard error, in a format of its own. */
import { DefaultLogger, type LogEntry, type LogLevel, Runtime } from '@temporalio/worker'
import type { Level } from 'pino'
import type { Log } from '../infra/log.ts'

const LEVELS: Readonly<Record<LogLevel, Level>> = { TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' }

let target: Log | undefined

/**
 * Routes what the SDK says, its native part included, into a log. To be called before anything else of `@temporalio/worker`: a
 * process has one runtime, which can't be changed once it is there. Called again, it takes another log.
 */
export function routeTemporalLog(log: Log): void {
  const routed = target !== undefined
  target = log.child({ library: 'temporal' })
  if (routed) return
  Runtime.install({
    logger: new DefaultLogger('DEBUG', write),
    telemetryOptions: { logging: { filter: { core: 'WARN', other: 'ERROR' }, forward: {} } },
  })
}

function write({ level, message, meta }: LogEntry): void {
  target?.[LEVELS[level]]({ ...meta }, message)
}
