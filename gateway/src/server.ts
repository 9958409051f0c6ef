/** The HTTP servers of a gateway process: requests for the API, and what operators ask. */
import { createServer, type IncomingMessage, type RequestListener, type Server, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { problem } from '@keyturn/contract'
import { announcesBody } from './body.ts'
import type { Gateway } from './gateway.ts'
import { sendProblem } from './incoming.ts'
import type { Log } from './log.ts'
import { answerOps, isOpsRequest } from './ops.ts'
import type { ReverseProxy } from './proxy.ts'
import { watchBody } from './slow-body.ts'
import { answerUnreadable } from './unreadable.ts'
import { isWebSocket } from './upgrade-offer.ts'
import { pause } from './wait.ts'

/** Longer than the load balancers before us keep an idle connection, so that it is they who close it. */
const KEEP_ALIVE_MS = 75_000
const CLIENT_MS = 30_000

export interface HostAndPort {
  readonly host: string
  readonly port: number
}

export interface ServerOptions {
  readonly gateway: Gateway
  /** Who answers: the reverse proxy, or the forward-auth server. */
  readonly proxy: Answerer
  readonly listen: HostAndPort
  /** A port of its own for `/healthz`, `/readyz`, `/metrics`. Without it they are on the same port. */
  readonly opsListen?: HostAndPort | undefined
  /** A connection on which nothing moves for so long is closed. */
  readonly idleMs: number
  /** How long the head of a request may take, and how often its body is looked at. */
  readonly clientMs?: number
  readonly log: Log
}

/** Without `upgrade`, a request for another protocol is answered as the plain one that it also is. */
export type Answerer = Pick<ReverseProxy, 'handle' | 'close'> & Partial<Pick<ReverseProxy, 'upgrade' | 'cutUpgraded'>>

export interface GatewayServer {
  /** Addresses that are listened on, `http://127.0.0.1:8081`. */
  readonly url: string
  readonly opsUrl: string
  /**
   * Says on `/readyz` that it is not ready any more, then takes no more requests and waits for those under way.
   * @param patienceMs after that they are cut off
   * @param noticeMs so long it goes on taking requests, so that load balancers see first that it is not ready; 0
   * @returns whether all of them were finished
   */
  drain(patienceMs: number, noticeMs?: number): Promise<boolean>
  close(): Promise<void>
}

const NOT_LISTENED: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program listens there',
  EADDRNOTAVAIL: 'this machine has no such address',
  EACCES: 'this user may not; ports below 1024 are for root',
}

const listen = (server: Server, { host, port }: HostAndPort): Promise<string> =>
  new Promise((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException): void => {
      const why = NOT_LISTENED[error.code ?? ''] ?? error.code
      reject(new Error(`${host}:${port} can not be listened on: ${why}`, { cause: error }))
    }
    server.once('error', fail)
    server.listen(port, host, () => {
      server.off('error', fail)
      const bound = server.address() as AddressInfo
      resolve(`http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`)
    })
  })

/** A request that offers another protocol than we speak is answered as what it also is: a plain one (RFC 9110 section 7.8). */
function answerPlainly(request: IncomingMessage, socket: Socket, listener: RequestListener): void {
  const response = new ServerResponse(request)
  response.shouldKeepAlive = false
  response.assignSocket(socket)
  socket.on('error', () => socket.destroy())
  response.on('finish', () => socket.end())
  // Its body will not come: Node has stopped reading HTTP there.
  if (announcesBody(request.headers)) {
    sendProblem(response, problem('invalid-request', 'Send a request with a body without the Upgrade field'), {})
  } else listener(request, response)
}

export async function startServer(options: ServerOptions): Promise<GatewayServer> {
  const { gateway, proxy, opsListen, idleMs, clientMs = CLIENT_MS, log } = options
  let draining = false
  const guard =
    (answer: (request: IncomingMessage, response: ServerResponse) => Promise<void>): RequestListener =>
    (request, response) => {
      if (draining) response.setHeader('connection', 'close')
      answer(request, response).catch((error: unknown) => {
        log.error({ err: error }, 'a request failed in the gateway')
        if (response.headersSent) response.destroy()
        else sendProblem(response, problem('internal-error'), { connection: 'close' })
      })
    }
  const ops = guard((request, response) => answerOps(gateway, draining, request, response))
  const answers = new WeakMap<Duplex, ServerResponse>()
  const pass = guard((request, response) => {
    answers.set(request.socket, response)
    watchBody(request, response, clientMs)
    return proxy.handle(request, response)
  })
  const listener: RequestListener = (request, response) =>
    opsListen === undefined && isOpsRequest(request) ? ops(request, response) : pass(request, response)

  // Later Nodes ask whether a request is to leave HTTP; earlier ones take every one that offers to.
  const settings = {
    keepAliveTimeout: KEEP_ALIVE_MS,
    // A large body may take its time; without a limit of its own the head would have none then.
    requestTimeout: 0,
    headersTimeout: clientMs,
    connectionsCheckingInterval: clientMs / 2,
    shouldUpgradeCallback: isWebSocket,
  }
  const server = createServer(settings, listener)
  if (proxy.upgrade !== undefined) {
    const upgrade = proxy.upgrade
    server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
      if (isWebSocket(request)) {
        upgrade(request, socket, head).catch((error: unknown) => {
          log.error({ err: error }, 'an upgrade failed in the gateway')
          socket.destroy()
        })
      } else answerPlainly(request, socket, listener)
    })
  }
  // A refused request must not be told to send its body.
  server.on('checkContinue', listener)
  server.on('clientError', (error: Error, socket: Duplex) => answerUnreadable(error, socket, answers.get(socket)))
  server.timeout = idleMs
  const opsServer = opsListen === undefined ? undefined : createServer(ops)
  const url = await listen(server, options.listen)
  let opsUrl = url
  if (opsServer !== undefined && opsListen !== undefined) {
    try {
      opsUrl = await listen(opsServer, opsListen)
    } catch (error) {
      server.close()
      throw error
    }
  }

  const drain = async (patienceMs: number, noticeMs = 0): Promise<boolean> => {
    draining = true
    if (noticeMs > 0) await pause(noticeMs)
    const closed = new Promise<boolean>((resolve) => server.close(() => resolve(true)))
    // A connection becomes idle when its last response is out; nobody else closes it then.
    const sweep = setInterval(() => server.closeIdleConnections(), 50)
    const waited = new AbortController()
    const finished = await Promise.race([closed, pause(patienceMs, waited.signal).then(() => false)])
    waited.abort()
    clearInterval(sweep)
    if (!finished) {
      server.closeAllConnections()
      proxy.cutUpgraded?.()
    }
    return finished
  }
  return {
    url,
    opsUrl,
    drain,
    async close() {
      if (!draining) await drain(0)
      opsServer?.close()
      opsServer?.closeAllConnections()
      await proxy.close()
    },
  }
}
