/** Which server is away, judged by the error that a library throws when it is. */
import { isGrpcServiceError } from '@temporalio/client'

export type ServerName = 'PostgreSQL' | 'Kafka' | 'Temporal'

/** gRPC: deadline exceeded, resource exhausted, failed precondition (a workflow whose worker is in trouble), unavailable. */
const GRPC_AWAY: readonly unknown[] = [4, 8, 9, 14]
/** SQLSTATE classes: 08 connection, 53 out of resources, 57P shutting down or starting up; and 25006: a standby answers. */
const SQL_AWAY = /^(08|53|57P|25006)/
const SOCKET_AWAY = [
  'ECONNREFUSED',
  'ECONNRESET',
  'ETIMEDOUT',
  'EPIPE',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
]
const PG_WORDS =
  /^(connection terminated|timeout exceeded when trying to connect|client has encountered a connection error|query read timeout|canceling statement due to)/i

/** Marks what a call to a server throws, for errors that do not say themselves where they are from. */
export class ServerUnavailable extends Error {
  override readonly name = 'ServerUnavailable'
  readonly server: ServerName
  constructor(server: ServerName, options?: ErrorOptions) {
    super(`${server} does not answer`, options)
    this.server = server
  }
}

export function unavailableServer(error: unknown): ServerName | undefined {
  if (error instanceof ServerUnavailable) return error.server
  if (!(error instanceof Error)) return undefined
  const { code, cause, errors } = error as { code?: unknown; cause?: unknown; errors?: unknown }
  if (error.name.startsWith('KafkaJS')) return 'Kafka'
  if (error.name === 'WorkflowUpdateRPCTimeoutOrCancelledError') return 'Temporal'
  if (isGrpcServiceError(error)) return GRPC_AWAY.includes(code) ? 'Temporal' : undefined
  if (isGrpcServiceError(cause)) return unavailableServer(cause)
  // What is left has no library's name on it; of the three, only pg passes such errors on as they are.
  if (typeof code === 'string' && (SQL_AWAY.test(code) || SOCKET_AWAY.includes(code))) return 'PostgreSQL'
  if (PG_WORDS.test(error.message)) return 'PostgreSQL'
  if (Array.isArray(errors)) return unavailableServer(errors[0])
  return cause === undefined ? undefined : unavailableServer(cause)
}

/** Rejects with `ServerUnavailable` when the work fails or takes longer than `timeoutMs`; the work itself is not stopped. */
export async function withinTime<T>(server: ServerName, timeoutMs: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new ServerUnavailable(server)), timeoutMs)
  })
  try {
    return await Promise.race([work, late])
  } catch (error) {
    throw error instanceof ServerUnavailable ? error : new ServerUnavailable(server, { cause: error })
  } finally {
    clearTimeout(timer)
  }
}
