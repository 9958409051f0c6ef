/** The gateway as a reverse proxy in front of one API: checks the key, passes on the request, streams both ways. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { problem } from '@keyturn/contract'
import { type Dispatcher, Pool } from 'undici'
import type { Accepted } from './authenticate.ts'
import { announcesBody } from './body.ts'
import { decide } from './decide.ts'
import { isEventStream, requestFields, responseFields } from './forwarding.ts'
import { describeRequest, errorCode, NO_PATH, pathOf, sendProblem } from './incoming.ts'
import { createThrottle } from './log.ts'
import { checkScopes } from './permissions.ts'
import type { RequestInfo } from './request-info.ts'
import { createScopesOf } from './routes.ts'
import { createUpgrades, type ProxyOptions } from './upgrades.ts'

export type { ProxyOptions }

export interface ReverseProxy {
  handle(request: IncomingMessage, response: ServerResponse): Promise<void>
  /** A request to go on as a WebSocket. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>
  /** Closes what has become a WebSocket. */
  cutUpgraded(): void
  close(): Promise<void>
}

/** The API closed a kept connection just as we used it again. */
const CONNECTION_LOST = ['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']
const REPEATABLE = ['GET', 'HEAD', 'OPTIONS']

export function createProxy(options: ProxyOptions): ReverseProxy {
  const { gateway, upstream, trustedProxies, upstreamTimeoutMs, log, routes = [] } = options
  checkScopes([...(options.scopes ?? []), ...routes.map(({ scope }) => scope)])
  const scopesOf = createScopesOf(options.scopes, routes)
  const throttle = createThrottle(1_000)
  const upgrades = createUpgrades(options)
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

  const forward = async (
    request: IncomingMessage,
    response: ServerResponse,
    info: RequestInfo,
    path: string,
    accepted: Accepted,
    scopes: readonly string[],
  ): Promise<void> => {
    const aborted = new AbortController()
    response.once('close', () => {
      if (!response.writableFinished) aborted.abort()
    })
    let answer: Dispatcher.ResponseData
    try {
      answer = await send({
        method: (request.method ?? 'GET') as Dispatcher.HttpMethod,
        path: basePath + path,
        headers: requestFields(request, accepted.identity, trustedProxies > 0),
        body: announcesBody(request.headers) ? request : null,
        signal: aborted.signal,
      })
    } catch (error) {
      if (aborted.signal.aborted || response.headersSent) return
      throttle('upstream', (more) => log.warn({ code: errorCode(error), more }, 'the API behind the gateway does not answer'))
      // What is left of the request's body is of no use to anyone.
      const close = request.complete ? {} : { connection: 'close' }
      sendProblem(response, problem('upstream-unavailable'), { ...accepted.responseHeaders, ...close })
      return
    }
    // Counted before the caller sees the answer, so that no cut of the usage window comes between.
    if (answer.statusCode === 401 || answer.statusCode === 403) gateway.refusedUpstream(accepted.key)
    if (isEventStream(answer.headers['content-type'])) {
      response.once(
        'close',
        gateway.follow(info, accepted.key, () => aborted.abort(), scopes),
      )
    }
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
      const path = pathOf(request.url)
      if (path === undefined) return sendProblem(response, NO_PATH, {})
      let waits = request.headers.expect !== undefined
      const goOn = (): void => {
        if (waits) response.writeContinue()
        waits = false
      }
      const info = describeRequest(request, path, trustedProxies, goOn)
      const scopes = scopesOf(path, request)
      const authentication = await decide(gateway, info, scopes)
      // The caller has left meanwhile: nothing would tell us of that any more.
      if (request.socket.destroyed) return
      if (!authentication.accepted) return sendProblem(response, authentication.problem, authentication.responseHeaders)
      goOn()
      await forward(request, response, info, path, authentication, scopes)
    },
    upgrade: upgrades.handle,
    cutUpgraded: upgrades.cut,
    close: async () => {
      upgrades.cut()
      await pool.destroy()
    },
  }
}
