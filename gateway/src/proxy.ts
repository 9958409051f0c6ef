/** The gateway as a reverse proxy in front of one API: checks the key, passes on the request, streams both ways. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { PROBLEM_MEDIA_TYPE, type ProblemDocument, problem } from '@keyturn/contract'
import { type Dispatcher, Pool } from 'undici'
import type { Accepted, RequestInfo } from './authenticate.ts'
import { callerAddress, requestFields, responseFields } from './forwarding.ts'
import type { Gateway } from './gateway.ts'
import { createThrottle, type Log } from './log.ts'

export interface ProxyOptions {
  readonly gateway: Pick<Gateway, 'authenticate' | 'refusedUpstream'>
  /** Where the API is; a path in it comes before every request's. */
  readonly upstream: URL
  /** How many proxies before us are believed on where a request came from. */
  readonly trustedProxies: number
  /** How long the API may take to answer, or to send its next bytes. */
  readonly upstreamTimeoutMs: number
  readonly log: Log
}

export interface ReverseProxy {
  handle(request: IncomingMessage, response: ServerResponse): Promise<void>
  close(): Promise<void>
}

export function sendProblem(
  response: ServerResponse,
  document: ProblemDocument,
  headers: Readonly<Record<string, string>>,
): void {
  const body = JSON.stringify(document)
  response.writeHead(document.status, {
    ...headers,
    'content-type': PROBLEM_MEDIA_TYPE,
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
  })
  response.end(body)
}

/** The path of a request target, always with a slash first. A target in absolute form keeps its path alone. */
function pathOf(target: string | undefined): string | undefined {
  if (target?.startsWith('/')) return target
  if (target === undefined || !URL.canParse(target)) return undefined
  const { pathname, search } = new URL(target)
  return pathname + search
}

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || (headers['content-length'] !== undefined && headers['content-length'] !== '0')

const errorCode = (error: unknown): string => {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined
  return typeof code === 'string' ? code : error instanceof Error ? error.name : 'unknown'
}

/** The API closed a kept connection just as we used it again. */
const CONNECTION_LOST = ['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']
const REPEATABLE = ['GET', 'HEAD', 'OPTIONS']

export function createProxy(options: ProxyOptions): ReverseProxy {
  const { gateway, upstream, trustedProxies, upstreamTimeoutMs, log } = options
  const throttle = createThrottle(1_000)
  const basePath = upstream.pathname.replace(/\/+$/, '')
  const pool = new Pool(upstream.origin, {
    connect: { timeout: Math.min(upstreamTimeoutMs, 5_000) },
    headersTimeout: upstreamTimeoutMs,
    bodyTimeout: upstreamTimeoutMs,
  })

  const send = async (what: Dispatcher.RequestOptions): Promise<Dispatcher.ResponseData> => {
    try {
      return await pool.request(what)
    } catch (error) {
      const repeatable = what.body === null && REPEATABLE.includes(what.method) && CONNECTION_LOST.includes(errorCode(error))
      if (!repeatable) throw error
      return await pool.request(what)
    }
  }

  const forward = async (request: IncomingMessage, response: ServerResponse, path: string, accepted: Accepted): Promise<void> => {
    const aborted = new AbortController()
    response.once('close', () => {
      if (!response.writableFinished) aborted.abort()
    })
    const incoming = { raw: request.rawHeaders, parsed: request.headers, address: request.socket.remoteAddress ?? 'unknown' }
    let answer: Dispatcher.ResponseData
    try {
      answer = await send({
        method: (request.method ?? 'GET') as Dispatcher.HttpMethod,
        path: basePath + path,
        headers: requestFields(incoming, accepted.identity, trustedProxies > 0),
        body: hasBody(request) ? request : null,
        signal: aborted.signal,
      })
    } catch (error) {
      if (aborted.signal.aborted) return
      throttle('upstream', (more) => log.warn({ code: errorCode(error), more }, 'the API behind the gateway does not answer'))
      // What is left of the request's body is of no use to anyone.
      const close = request.complete ? {} : { connection: 'close' }
      sendProblem(response, problem('upstream-unavailable'), { ...accepted.responseHeaders, ...close })
      return
    }
    // Counted before the caller sees the answer, so that no cut of the usage window comes between.
    if (answer.statusCode === 401 || answer.statusCode === 403) gateway.refusedUpstream(accepted.key)
    try {
      response.writeHead(answer.statusCode, responseFields(answer.headers, accepted.responseHeaders))
      await pipeline(answer.body, response)
    } catch (error) {
      if (!aborted.signal.aborted) {
        throttle('body', (more) => log.warn({ code: errorCode(error), more }, 'a response of the API broke off'))
      }
      response.destroy()
    }
  }

  return {
    async handle(request, response) {
      const forwardedFor = request.headers['x-forwarded-for']
      const info: RequestInfo = {
        headers: request.headersDistinct,
        address: callerAddress(
          request.socket.remoteAddress,
          typeof forwardedFor === 'string' ? forwardedFor : forwardedFor?.join(','),
          trustedProxies,
        ),
      }
      const path = pathOf(request.url)
      if (path === undefined) return sendProblem(response, problem('invalid-request', 'The request target is no path'), {})
      const authentication = gateway.authenticate(info)
      if (!authentication.accepted) return sendProblem(response, authentication.problem, authentication.responseHeaders)
      if (request.headers.expect !== undefined) response.writeContinue()
      await forward(request, response, path, authentication)
    },
    close: () => pool.destroy(),
  }
}
