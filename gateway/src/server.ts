/** The HTTP servers of a gateway process: requests for the API, and what operators ask. */
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { problem } from '@keyturn/contract'
import type { Gateway } from './gateway.ts'
import type { Log } from './log.ts'
import { answerOps, isOpsRequest } from './ops.ts'
import { type ReverseProxy, sendProblem } from './proxy.ts'
import { pause } from './wait.ts'

/** Longer than the load balancers before us keep an idle connection, so that it is they who close it. */
const KEEP_ALIVE_MS = 75_000

export interface HostAndPort {
  readonly host: string
  readonly port: number
}

export interface ServerOptions {
  readonly gateway: Gateway
  readonly proxy: ReverseProxy
  readonly listen: HostAndPort
  /** A port of its own for `/healthz`, `/readyz`, `/metrics`. Without it they are on the same port. */
  readonly opsListen?: HostAndPort | undefined
  /** A connection on which nothing moves for so long is closed. */
  readonly idleMs: number
  readonly log: Log
}

export interface GatewayServer {
  /** Addresses that are listened on, `http://127.0.0.1:8081`. */
  readonly url: string
  readonly opsUrl: string
  /**
   * Takes no more requests and waits for those under way.
   * @param patienceMs after that they are cut off
   * @returns whether all of them were finished
   */
  drain(patienceMs: number): Promise<boolean>
  close(): Promise<void>
}

const listen = (server: Server, { host, port }: HostAndPort): Promise<string> =>
  new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      const bound = server.address() as AddressInfo
      resolve(`http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`)
    })
  })

export async function startServer(options: ServerOptions): Promise<GatewayServer> {
  const { gateway, proxy, opsListen, idleMs, log } = options
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
  const ops = guard((request, response) => answerOps(gateway, request, response))
  const pass = guard((request, response) => proxy.handle(request, response))
  const listener: RequestListener = (request, response) =>
    opsListen === undefined && isOpsRequest(request) ? ops(request, response) : pass(request, response)

  // No listener for `upgrade`: such a request is answered as the plain HTTP/1.1 request that it also is (RFC 9110 section 7.8).
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS, requestTimeout: 0 }, listener)
  // A refused request must not be told to send its body.
  server.on('checkContinue', listener)
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

  const drain = async (patienceMs: number): Promise<boolean> => {
    draining = true
    const closed = new Promise<boolean>((resolve) => server.close(() => resolve(true)))
    // A connection becomes idle when its last response is out; nobody else closes it then.
    const sweep = setInterval(() => server.closeIdleConnections(), 50)
    const waited = new AbortController()
    const finished = await Promise.race([closed, pause(patienceMs, waited.signal).then(() => false)])
    waited.abort()
    clearInterval(sweep)
    if (!finished) server.closeAllConnections()
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
