/** A request as it arrived, and the answer that is not the API's. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { PROBLEM_MEDIA_TYPE, type ProblemDocument, problem } from '@keyturn/contract'
import { StreamedBody } from './body.ts'
import { callerAddress } from './forwarding.ts'
import type { RequestInfo } from './request-info.ts'

/** Header fields and body of an answer that says what is wrong, the same in every way in. */
export function problemAnswer(
  document: ProblemDocument,
  headers: Readonly<Record<string, string>>,
): { headers: Record<string, string>; body: string } {
  return {
    headers: { ...headers, 'content-type': PROBLEM_MEDIA_TYPE, 'cache-control': 'no-store' },
    body: JSON.stringify(document),
  }
}

export function sendProblem(response: ServerResponse, document: ProblemDocument, fields: Readonly<Record<string, string>>): void {
  const { headers, body } = problemAnswer(document, fields)
  response.writeHead(document.status, { ...headers, 'content-length': Buffer.byteLength(body) }).end(body)
}

/** The scheme and the host that a caller used: of the connection or, behind trusted proxies, what the outermost of them says. */
function originOf({ socket, headers }: IncomingMessage, trustedProxies: number): Pick<RequestInfo, 'scheme' | 'authority'> {
  const said = (name: string, own: string | undefined) => {
    const field = headers[name]
    return callerAddress(own, typeof field === 'string' ? field : undefined, trustedProxies)
  }
  return {
    scheme: said('x-forwarded-proto', 'encrypted' in socket ? 'https' : 'http'),
    authority: said('x-forwarded-host', headers.host),
  }
}

export const addressOf = ({ socket, headersDistinct }: IncomingMessage, trustedProxies: number): string | undefined =>
  callerAddress(socket.remoteAddress, headersDistinct['x-forwarded-for']?.join(','), trustedProxies)

/**
 * What a request shows, and where it comes from.
 * @param onRead before its body is waited for
 */
export function describeRequest(
  request: IncomingMessage,
  path: string | undefined,
  trustedProxies: number,
  onRead?: () => void,
): RequestInfo {
  return {
    headers: request.headersDistinct,
    address: addressOf(request, trustedProxies),
    method: request.method,
    url: path,
    ...originOf(request, trustedProxies),
    body: new StreamedBody(request, onRead),
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
