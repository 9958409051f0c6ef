/**
 * Hono: `app.use(keyturn({ gateway }))`, or `app.post('/orders', keyturn({ gateway, scopes: ['orders:write'] }), …)`.
 * `c.get('keyturn')` is who calls.
 */
import type { IncomingMessage } from 'node:http'
import type { Context, MiddlewareHandler } from 'hono'
import { decide } from '../decide.ts'
import { endsHere, isEventStream } from '../forwarding.ts'
import type { KeyEntry } from '../key-cache.ts'
import { forbids } from '../permissions.ts'
import { type AdapterOptions, type Caller, refusal, scopesOf } from './entrance.ts'

export interface HonoOptions extends AdapterOptions {
  /** The caller's address. That of the connection, on Node; set it behind a proxy, and elsewhere. */
  readonly address?: (context: Context) => string | undefined
}

const connection = ({ env }: Context): string | undefined =>
  (env as { incoming?: IncomingMessage } | undefined)?.incoming?.socket.remoteAddress

/** Requests that are in already: a route may ask for more than the whole app. */
const inside = new WeakMap<Context, { readonly key: KeyEntry; refused: boolean }>()

export function keyturn(options: HonoOptions): MiddlewareHandler<{ Variables: { keyturn: Caller } }> {
  const { gateway, address = connection } = options
  const scopes = scopesOf(options)
  return async (c, next) => {
    const { headers: given, method, url } = c.req.raw
    const { pathname, search, host } = new URL(url)
    const info = { headers: Object.fromEntries(given), address: address(c), method, url: pathname + search, authority: host }
    const before = inside.get(c)
    if (before !== undefined) {
      const problem = forbids(before.key, info, scopes)
      if (problem === undefined) return next()
      before.refused = true
      const { headers, body } = refusal({ accepted: false, problem, responseHeaders: {} })
      return new Response(body, { status: problem.status, headers })
    }
    const answer = await decide(gateway, info, scopes)
    if (!answer.accepted) {
      const { headers, body } = refusal(answer)
      return new Response(body, { status: answer.problem.status, headers })
    }
    const headers = new Headers([...given].filter(([name]) => !endsHere(name)))
    for (const [name, value] of Object.entries(answer.identity)) headers.set(name, value)
    c.req.raw = new Request(c.req.raw, { headers })
    c.set('keyturn', answer.key)
    const entry = { key: answer.key, refused: false }
    inside.set(c, entry)
    await next()
    if ((c.res.status === 401 || c.res.status === 403) && !entry.refused) gateway.refusedUpstream(answer.key)
    for (const [name, value] of Object.entries(answer.responseHeaders)) c.header(name, value)
    if (c.res.body !== null && isEventStream(c.res.headers.get('content-type'))) {
      const ended = new AbortController()
      const stop = gateway.follow(info, answer.key.keyId, () => ended.abort(), scopes)
      const { readable, writable } = new TransformStream()
      // Its key has ended: so does the stream, without an error for the server to print.
      const finish = (error: unknown) => (ended.signal.aborted ? writable.close() : writable.abort(error))
      const piped = c.res.body.pipeTo(writable, { signal: ended.signal, preventAbort: true }).catch(finish)
      piped.then(stop, stop)
      c.res = new Response(readable, c.res)
    }
  }
}
