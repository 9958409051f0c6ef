/**
 * Hono: `app.use(keyturn({ gateway }))`, or `app.post('/orders', keyturn({ gateway, scopes: ['orders:write'] }), …)`.
 * `c.get('keyturn')` is who calls.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Context, MiddlewareHandler } from 'hono'
import type { BodyFlaw, BodyLimits, RequestBody } from '../body.ts'
import { decide } from '../decide.ts'
import { endsHere, isEventStream } from '../forwarding.ts'
import type { KeyEntry } from '../key-cache.ts'
import { forbids } from '../permissions.ts'
import { type AdapterOptions, type Caller, refusal, scopesOf } from './entrance.ts'
import { followUpgrade } from './follow-upgrade.ts'

export interface HonoOptions extends AdapterOptions {
  /** The caller's address. That of the connection, on Node; set it behind a proxy, and elsewhere. */
  readonly address?: (context: Context) => string | undefined
}

/** What there is on Node. */
interface OnNode {
  readonly incoming?: IncomingMessage
  /** Nothing where the request is upgraded. */
  readonly outgoing?: ServerResponse
}
const onNode = ({ env }: Context): OnNode => (env as OnNode | undefined) ?? {}

const connection = (context: Context): string | undefined => onNode(context).incoming?.socket.remoteAddress

/** The body of a web request: taken from it, so that it has to be given back. */
class TakenBody implements RequestBody {
  readonly announced: boolean
  readonly #request: Request
  taken: Uint8Array<ArrayBuffer> | undefined

  constructor(context: Context) {
    this.#request = context.req.raw
    // On HTTP/1.1 the head of the request says it, and Node's adaptor makes a stream for every POST.
    this.announced = onNode(context).incoming === undefined && this.#request.body !== null
  }

  async read({ most, withinMs }: BodyLimits): Promise<Buffer | BodyFlaw> {
    if (Number(this.#request.headers.get('content-length') ?? 0) > most) return 'too-large'
    const reader = this.#request.body?.getReader()
    const chunks: Uint8Array[] = []
    let size = 0
    let late = false
    const timer = setTimeout(() => {
      late = true
      void reader?.cancel().catch(() => undefined)
    }, withinMs)
    try {
      for (let next = await reader?.read(); next?.done === false; next = await reader?.read()) {
        chunks.push(next.value)
        size += next.value.length
        if (size > most) return 'too-large'
      }
    } catch {
      return late ? 'too-slow' : 'incomplete'
    } finally {
      clearTimeout(timer)
    }
    if (late) return 'too-slow'
    const whole = Buffer.concat(chunks, size)
    this.taken = new Uint8Array(whole)
    return whole
  }
}

/** Requests that are in already: a route may ask for more than the whole app. */
const inside = new WeakMap<Context, { readonly key: KeyEntry; readonly scopes: string[]; refused: boolean }>()

export function keyturn(options: HonoOptions): MiddlewareHandler<{ Variables: { keyturn: Caller } }> {
  const { gateway, address = connection } = options
  const scopes = scopesOf(options)
  return async (c, next) => {
    const { headers: given, method, url } = c.req.raw
    const { pathname, search, host, protocol } = new URL(url)
    const body = new TakenBody(c)
    const info = {
      headers: Object.fromEntries(given),
      address: address(c),
      method,
      url: pathname + search,
      authority: host,
      scheme: protocol.slice(0, -1),
      body,
    }
    const before = inside.get(c)
    if (before !== undefined) {
      const problem = forbids(before.key, info, scopes)
      if (problem === undefined) {
        before.scopes.push(...scopes)
        return next()
      }
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
    c.req.raw =
      body.taken === undefined
        ? new Request(c.req.raw, { headers })
        : new Request(url, { method, headers, body: body.taken, signal: c.req.raw.signal })
    c.set('keyturn', answer.key)
    const entry = { key: answer.key, scopes: [...scopes], refused: false }
    inside.set(c, entry)
    const { incoming, outgoing } = onNode(c)
    if (incoming !== undefined)
      followUpgrade((ended) => gateway.follow(info, answer.key, ended, entry.scopes), incoming, outgoing)
    await next()
    if ((c.res.status === 401 || c.res.status === 403) && !entry.refused) gateway.refusedUpstream(answer.key)
    for (const [name, value] of Object.entries(answer.responseHeaders)) c.header(name, value)
    if (c.res.body !== null && isEventStream(c.res.headers.get('content-type'))) {
      const ended = new AbortController()
      const stop = gateway.follow(info, answer.key, () => ended.abort(), entry.scopes)
      const { readable, writable } = new TransformStream()
      // Its key has ended: so does the stream, without an error for the server to print.
      const finish = (error: unknown) => (ended.signal.aborted ? writable.close() : writable.abort(error))
      const piped = c.res.body.pipeTo(writable, { signal: ended.signal, preventAbort: true }).catch(finish)
      piped.then(stop, stop)
      c.res = new Response(readable, c.res)
    }
  }
}
