/** A request as it arrived, and the answer that is not the API's. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { PROBLEM_MEDIA_TYPE, type ProblemDocument, problem } from '@keyturn/contract'
import { callerAddress } from './forwarding.ts'
import type { RequestInfo } from './request-info.ts'

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

/** What a request shows, and where it comes from. */
export function describeRequest(request: IncomingMessage, path: string, trustedProxies: number): RequestInfo {
  const forwardedFor = request.headersDistinct['x-forwarded-for']?.join(',')
  return {
    headers: request.headersDistinct,
    address: callerAddress(request.socket.remoteAddress, forwardedFor, trustedProxies),
    method: request.method,
    url: path,
    authority: request.headers.host,
  }
}

/** The path of a request target, always with a slash first. A target in absolute form keeps its path alone. */
export function pathOf(target: string | undefined): string | undefined {
  if (target?.startsWith('/')) return target
  if (target === undefined || !URL.canParse(target)) return undefined
  const { pathname, search } = new URL(target)
  return pathname + search
}

export const NO_PATH = problem('invalid-request', 'The request target is no path')

export const errorCode = (error: unknown): string => {
  const code = error instanceof Error ? (error as { code?: unknown }).code : undefined
  return typeof code === 'string' ? code : error instanceof Error ? error.name : 'unknown'
}
