/** WebSockets through the reverse proxy: the key is checked when one is opened, and the connection ends with its key. */
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { Duplex } from 'node:stream'
import { urlToHttpOptions } from 'node:url'
import { type ProblemDocument, problem } from '@keyturn/contract'
import { decide } from './decide.ts'
import { isEventStream, requestFields, responseFields } from './forwarding.ts'
import type { Gateway } from './gateway.ts'
import { describeRequest, errorCode, NO_PATH, pathOf, problemAnswer } from './incoming.ts'
import { createThrottle, type Log } from './log.ts'
import { createScopesOf, type Route } from './routes.ts'
import { answerUpgrade, closeWhenSent, writeHead } from './upgrade-answer.ts'
import { handshakeFlaw, hasLeft } from './upgrade-offer.ts'

export interface ProxyOptions {
  readonly gateway: Pick<Gateway, 'authenticate' | 'refusedUpstream' | 'follow'>
  /** Where the API is; a path in it comes before every request's. */
  readonly upstream: URL
  /** How many proxies before us are believed on where a request came from. */
  readonly trustedProxies: number
  /** How long the API may take to answer, or to send its next bytes. */
  readonly upstreamTimeoutMs: number
  readonly log: Log
  /** What a key must have for any request, all of them. Nothing by default. */
  readonly scopes?: readonly string[]
  /** What it must have by path beside these. */
  readonly routes?: readonly Route[]
}

export interface Upgrades {
  handle(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>
  /** Closes all that are open. */
  cut(): void
}

/** Bytes both ways, until either end closes. */
function join(a: Duplex, b: Duplex): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.on('error', () => from.destroy())
    from.on('close', () => to.destroy())
    from.pipe(to)
  }
}

export function createUpgrades(options: ProxyOptions): Upgrades {
  const { gateway, upstream, trustedProxies, upstreamTimeoutMs, log } = options
  const scopesOf = createScopesOf(options.scopes, options.routes)
  const throttle = createThrottle(1_000)
  const basePath = upstream.pathname.replace(/\/+$/, '')
  const sockets = new Set<Duplex>()
  const send = upstream.protocol === 'https:' ? httpsRequest : httpRequest
  const { protocol, hostname, port } = urlToHttpOptions(upstream)

  const refuse = (socket: Duplex, document: ProblemDocument, fields: Readonly<Record<string, string>>): void =>
    answerUpgrade(socket, document.status, problemAnswer(document, fields))

  return {
    cut() {
      for (const socket of sockets) socket.destroy()
    },
    async handle(request, socket, head) {
      sockets.add(socket)
      socket.on('error', () => socket.destroy())
      socket.once('close', () => sockets.delete(socket))
      const path = pathOf(request.url)
      if (path === undefined) return refuse(socket, NO_PATH, {})
      const flaw = handshakeFlaw(request)
      if (flaw !== undefined) return refuse(socket, flaw, {})
      const info = describeRequest(request, path, trustedProxies)
      const scopes = scopesOf(path, request)
      const answer = await decide(gateway, info, scopes)
      if (hasLeft(socket)) return
      if (!answer.accepted) return refuse(socket, answer.problem, answer.responseHeaders)
      const follow = (): void => {
        const stop = gateway.follow(info, answer.key, () => socket.destroy(), scopes)
        socket.once('close', stop)
      }
      let answered = false
      const fields = requestFields(request, answer.identity, trustedProxies > 0)
      // Never as a URL: relative to the API's, `//elsewhere/` is another host.
      const outgoing = send({
        method: 'GET',
        protocol,
        hostname,
        port,
        path: basePath + path,
        headers: ['host', upstream.host, ...fields, 'connection', 'Upgrade', 'upgrade', 'websocket'],
        agent: false,
        timeout: upstreamTimeoutMs,
      })
      socket.once('close', () => outgoing.destroy())
      outgoing.on('timeout', () => outgoing.destroy(new Error('timeout')))
      outgoing.on('error', (error) => {
        if (socket.destroyed) return
        // What is written behind the head of an answer would be taken for its body.
        if (answered) return void socket.destroy()
        throttle('upgrade', (more) => log.warn({ code: errorCode(error), more }, 'the API behind the gateway does not answer'))
        refuse(socket, problem('upstream-unavailable'), answer.responseHeaders)
      })
      outgoing.on('upgrade', (response, behind, firstBytes) => {
        behind.setTimeout(0)
        const agreed = {
          ...responseFields(response.headers, answer.responseHeaders),
          connection: 'Upgrade',
          upgrade: 'websocket',
        }
        writeHead(socket, 101, agreed)
        socket.write(firstBytes)
        behind.write(head)
        join(socket, behind)
        follow()
      })
      outgoing.on('response', (response) => {
        answered = true
        const status = response.statusCode ?? 502
        if (status === 401 || status === 403) gateway.refusedUpstream(answer.key)
        if (isEventStream(response.headers['content-type'])) follow()
        writeHead(socket, status, { ...responseFields(response.headers, answer.responseHeaders), connection: 'close' })
        response.on('error', () => socket.destroy())
        response.pipe(socket)
        closeWhenSent(socket)
      })
      outgoing.end()
    },
  }
}
