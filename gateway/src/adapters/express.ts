/**
 * Express, and whatever else takes its middleware: `app.use(keyturn({ gateway }))` for all, or
 * `app.post('/orders', keyturn({ gateway, scopes: ['orders:write'] }), …)` for one. `request.keyturn` is who calls. Addresses
 * are Express's `request.ip`, and so are scheme and host: set its `trust proxy` when there is a proxy before it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { type AdapterOptions, type Caller, enter, infoOf, refusal, scopesOf } from './entrance.ts'

declare global {
  namespace Express {
    interface Request {
      /** Who calls; nothing before the middleware. */
      keyturn?: Caller
    }
  }
}

interface ExpressRequest extends IncomingMessage {
  readonly ip?: string | undefined
  readonly originalUrl?: string
  readonly protocol?: string
  readonly host?: string | undefined
  keyturn?: Caller
}

/** Express 4 leaves out the port. */
function authorityOf({ host, headers }: ExpressRequest): string | undefined {
  return host === undefined || headers.host?.startsWith(`${host}:`) === true ? headers.host : host
}

export function keyturn(
  options: AdapterOptions,
): (request: ExpressRequest, response: ServerResponse, next: (error?: unknown) => void) => Promise<void> {
  const scopes = scopesOf(options)
  return async (request, response, next) => {
    const info = infoOf(request, {
      address: request.ip ?? request.socket.remoteAddress,
      scheme: request.protocol,
      authority: authorityOf(request),
      url: request.originalUrl ?? request.url,
    })
    const entered = await enter(options, scopes, info, request, response)
    if (entered.accepted) {
      request.keyturn = entered.caller
      return next()
    }
    const { headers, body } = refusal(entered)
    response.writeHead(entered.problem.status, headers).end(body)
  }
}
