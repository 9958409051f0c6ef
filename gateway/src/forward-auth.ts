/**
 * The gateway as the server that another proxy asks: nginx (`auth_request`), Caddy (`forward_auth`), HAProxy (Lua). It answers
 * 204 with who calls, or the refusal; the request itself it never sees. `GET /auth?scope=orders:read` asks for scopes, too.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { BlockList } from 'node:net'
import { problem } from '@keyturn/contract'
import { decide } from './decide.ts'
import { callerAddress } from './forwarding.ts'
import type { Gateway } from './gateway.ts'
import { pathOf, sendProblem } from './incoming.ts'
import { createThrottle, type Log } from './log.ts'
import { checkScopes } from './permissions.ts'
import type { RequestInfo } from './request-info.ts'
import { listed } from './restriction.ts'

export interface ForwardAuthOptions {
  readonly gateway: Pick<Gateway, 'authenticate'>
  /** Who is believed on what the original request was: the `X-Forwarded-*` of anyone else count for nothing. */
  readonly askers: BlockList
  /** How many proxies, the asking one among them, are believed on `X-Forwarded-For`. 1 at least. */
  readonly trustedProxies: number
  readonly log: Log
}

/** The refusal in one field, for proxies that keep nothing of the body (nginx). */
const PROBLEM_FIELD = 'keyturn-problem'

export function createForwardAuth({ gateway, askers, trustedProxies, log }: ForwardAuthOptions) {
  const throttle = createThrottle()
  const hops = Math.max(1, trustedProxies)

  const describe = (request: IncomingMessage): RequestInfo => {
    const { headersDistinct: headers, socket } = request
    if (!listed(askers, socket.remoteAddress)) return { headers, address: socket.remoteAddress, body: 'unseen' }
    // The asking proxy sets each of them, once; twice, and one of the two is the caller's.
    const original = (name: string): string | undefined => (headers[name]?.length === 1 ? headers[name][0] : undefined)
    const forwardedFor = headers['x-forwarded-for']?.join(',')
    return {
      headers,
      address: forwardedFor === undefined ? undefined : callerAddress(undefined, forwardedFor, hops),
      method: original('x-forwarded-method'),
      url: original('x-forwarded-uri'),
      authority: original('x-forwarded-host'),
      scheme: original('x-forwarded-proto'),
      body: 'unseen',
    }
  }

  return {
    async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
      request.resume()
      // Not as a URL: `//` is none, and `//elsewhere/auth` would be one with our path.
      const [path, ...query] = (pathOf(request.url) ?? '').split('?')
      if (path !== '/auth') return sendProblem(response, problem('not-found', 'Ask /auth'), {})
      let scopes: readonly string[]
      try {
        scopes = checkScopes(new URLSearchParams(query.join('?')).getAll('scope'))
      } catch (error) {
        // The proxy's own configuration is wrong. Nobody gets in by that.
        throttle('scope', (more) => log.error({ err: error, more }, 'the proxy asks for a scope that no key can have'))
        return sendProblem(response, problem('invalid-request', (error as RangeError).message), {})
      }
      const answer = await decide(gateway, describe(request), scopes)
      if (!answer.accepted) {
        const inOneField = { [PROBLEM_FIELD]: JSON.stringify(answer.problem) }
        return sendProblem(response, answer.problem, { ...answer.responseHeaders, ...inOneField })
      }
      response.writeHead(204, { ...answer.identity, ...answer.responseHeaders, 'cache-control': 'no-store' }).end()
    },
    close: async (): Promise<void> => undefined,
  }
}
