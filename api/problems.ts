/** Every error leaves the API as an RFC 9457 problem document with a code from the contract's list. */
import { PROBLEM_MEDIA_TYPE, type ProblemCode, type ProblemDocument, problem } from '@keyturn/contract'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { RegistryError } from '../registry/errors.ts'
import { unavailableServer } from './dependencies.ts'

export type FieldError = NonNullable<ProblemDocument['errors']>[number]

/** Thrown by routes; becomes the answer. `detail` is for a person and never holds a secret. */
export class ApiError extends Error {
  override readonly name = 'ApiError'
  readonly code: ProblemCode
  readonly errors: readonly FieldError[] | undefined
  constructor(code: ProblemCode, detail: string, errors?: readonly FieldError[], options?: ErrorOptions) {
    super(detail, options)
    this.code = code
    this.errors = errors
  }
}

/** A request that does not fit its schema; thrown by the validator. */
export class ValidationError extends Error {
  override readonly name = 'ValidationError'
  readonly errors: readonly FieldError[]
  constructor(errors: readonly FieldError[]) {
    super('the request does not fit the schema')
    this.errors = errors
  }
}

export function sendProblem(reply: FastifyReply, document: ProblemDocument): FastifyReply {
  if (document.status === 401) reply.header('www-authenticate', 'Bearer realm="keyturn"')
  if (document.status === 503) reply.header('retry-after', '5')
  if (document.status === 429) reply.header('retry-after', '60')
  return reply
    .code(document.status)
    .header('cache-control', 'no-store')
    .type(PROBLEM_MEDIA_TYPE)
    .serializer(JSON.stringify)
    .send(document)
}

const FASTIFY_CODES: Readonly<Record<string, readonly [ProblemCode, string]>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ['unsupported-media-type', 'Send the body as application/json.'],
  FST_ERR_CTP_INVALID_JSON_BODY: ['not-json', 'The body can not be read as JSON.'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ['invalid-request', 'The body is not as long as Content-Length says.'],
  FST_ERR_MAX_PARAM_LENGTH: ['not-found', 'Nothing has an id of this length.'],
  FST_ERR_BAD_URL: ['not-found', 'The path is not a usable URL.'],
  FST_ERR_ASYNC_CONSTRAINT: ['not-found', 'There is nothing at this path.'],
}

/** The problem document of whatever was thrown. Unknown errors tell nothing of themselves. */
export function toProblem(error: unknown, bodyLimit?: number): ProblemDocument {
  if (error instanceof ApiError) return problem(error.code, error.message, error.errors)
  if (error instanceof ValidationError) return problem('invalid-request', undefined, error.errors)
  const { code, validation, statusCode } = error as { code?: string; validation?: unknown; statusCode?: number }
  if (validation instanceof ValidationError) return toProblem(validation)
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') return problem('too-large', tooLarge(bodyLimit))
  if (error instanceof RegistryError && error.code !== 'dependency-unavailable') return problem(error.code, error.message)
  const server = unavailableServer(error)
  if (server !== undefined) return problem('dependency-unavailable', `${server} does not answer: try again in a moment.`)
  const known = code === undefined ? undefined : FASTIFY_CODES[code]
  if (known !== undefined) return problem(known[0], known[1])
  if (error instanceof SyntaxError && statusCode === 400) return problem('not-json', 'The body can not be read as JSON.')
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) return problem('invalid-request')
  return problem('internal-error', 'The log of the API server says why.')
}

const tooLarge = (limit: number | undefined): string =>
  limit === undefined ? 'The request body is too large.' : `A request body is at most ${limit / 1024} KiB here.`

export function answerErrorsWithProblems(app: FastifyInstance): void {
  app.setErrorHandler((error, request, reply) => {
    const document = toProblem(error, request.routeOptions.bodyLimit)
    if (document.status === 503) request.log.warn({ err: error }, 'a server that Keyturn needs does not answer')
    else if (document.status >= 500) request.log.error({ err: error }, 'a request failed')
    return sendProblem(reply, document)
  })
}
