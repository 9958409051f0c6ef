/**
 * Plain `node:http`: `createServer(keyturn({ gateway, scopes: ['orders:read'] }, (request, response) => …))`. `request.keyturn`
 * is who calls. WebSockets: `server.on('upgrade', keyturnUpgrade({ gateway }, (request, socket, head) => …))`.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { decide } from '../decide.ts'
import { describeRequest, problemAnswer } from '../incoming.ts'
import { answerUpgrade } from '../upgrade-answer.ts'
import { handshakeFlaw, hasLeft } from '../upgrade-offer.ts'
import { type AdapterOptions, type Caller, enter, refusal, rewriteFields, scopesOf } from './entrance.ts'

export type { Caller }

export interface NodeOptions extends AdapterOptions {
  /** How many proxies before us are believed on `X-Forwarded-For`, `-Host` and `-Proto`. 0. */
  readonly trustedProxies?: number
}
export type Identified = IncomingMessage & { readonly keyturn: Caller }

const identified = (request: IncomingMessage, keyturn: Caller): Identified => Object.assign(request, { keyturn })

export function keyturn(
  options: NodeOptions,
  handler: (request: Identified, response: ServerResponse) => unknown,
): RequestListener {
  const scopes = scopesOf(options)
  const { trustedProxies = 0 } = options
  return async (request, response) => {
    const entered = await enter(options, scopes, describeRequest(request, request.url, trustedProxies), request, response)
    if (entered.accepted) return void handler(identified(request, entered.caller), response)
    const { headers, body } = refusal(entered)
    response.writeHead(entered.problem.status, headers).end(body)
  }
}

/** What is no handshake (GET, without a body) is refused with 400: of a body, Node reads nothing any more. */
export function keyturnUpgrade(
  options: NodeOptions,
  handler: (request: Identified, socket: Duplex, head: Buffer) => unknown,
): (request: IncomingMessage, socket: Duplex, head: Buffer) => Promise<void> {
  const scopes = scopesOf(options)
  const { trustedProxies = 0 } = options
  return async (request, socket, head) => {
    socket.on('error', () => socket.destroy())
    const flaw = handshakeFlaw(request)
    if (flaw !== undefined) return answerUpgrade(socket, flaw.status, problemAnswer(flaw, {}))
    const info = describeRequest(request, request.url, trustedProxies)
    const answer = await decide(options.gateway, info, scopes)
    if (hasLeft(socket)) return
    if (!answer.accepted) return answerUpgrade(socket, answer.problem.status, refusal(answer))
    rewriteFields(request, answer.identity)
    socket.once(
      'close',
      options.gateway.follow(info, answer.key, () => socket.destroy(), scopes),
    )
    handler(identified(request, answer.key), socket, head)
  }
}
