/** One gateway, fed by Kafka once, and the API behind: what every way in is tried with. */
import { createServer, type IncomingMessage, type RequestListener, request, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { createGateway, createLog, type Gateway, type Log } from '@keyturn/gateway'
import { Partitioners } from 'kafkajs'
import { inject } from 'vitest'
import { kafkaClient, uniqueTopics } from '../support/servers.ts'
import { issueEd25519, issueHmac, KEK } from './signatures/signing.ts'
import { issueKey, keyMessage, type Message } from './support.ts'

const issueAll = () => ({
  good: issueKey({ scopes: ['orders:read'] }),
  writer: issueKey({ scopes: ['orders:*'] }),
  old: issueKey({ sunsetAt: '2026-02-01T00:00:00.750Z', deprecatedAt: '2026-01-10T00:00:00.500Z', successor: 2 }),
  revoked: issueKey({ state: 'deactivated' }),
  compromised: issueKey({ state: 'compromised' }),
  suspended: issueKey({ state: 'suspended' }),
  expired: issueKey({ expiresAt: '2026-01-02T00:00:00.000Z' }),
  foreign: issueKey({ environment: 'dev' }),
  getOnly: issueKey({ scopes: ['orders:*'], allow: { methods: ['GET'] } }),
  fromHome: issueKey({ allow: { addresses: ['127.0.0.0/8', '::1'] } }),
  signer: issueHmac({ scopes: ['orders:*'] }),
  edwards: issueEd25519({ scopes: ['orders:read'] }),
  fromElsewhere: issueKey({ allow: { addresses: ['192.0.2.0/24', '2001:db8::/32'] } }),
})

/** What the API saw of a request. */
export interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string[]>>
  readonly body: number
  /** The key id, as a handler in the gateway's own process is told. */
  readonly caller?: string
}

export interface World {
  readonly gateway: Gateway
  readonly keys: ReturnType<typeof issueAll>
  readonly log: Log
  /** The API, as a process of its own behind a proxy. */
  readonly api: URL
  publish(...messages: Message[]): Promise<void>
  /** Done in reverse order when the tests are over. */
  onClose(work: () => unknown): void
  close(): Promise<void>
}

/** Answers what it saw; `/refused` is answered with 401, `/events` with an event stream that does not end. */
export async function answer(request: IncomingMessage, response: ServerResponse, caller?: string): Promise<void> {
  const body = await buffer(request)
  const seen: Seen = {
    method: request.method ?? '',
    url: request.url ?? '',
    headers: request.headersDistinct as Record<string, string[]>,
    body: body.length,
    ...(caller === undefined ? {} : { caller }),
  }
  if (request.url?.startsWith('/events')) {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: first\n\n')
    return
  }
  response.writeHead(request.url?.startsWith('/refused') ? 401 : 200, { 'content-type': 'application/json' })
  response.end(JSON.stringify(seen))
}

export function shut(server: Server): void {
  server.close()
  server.closeAllConnections()
}

export async function listen(server: Server): Promise<URL> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
}

export async function openWorld(): Promise<World> {
  const { topics } = await uniqueTopics()
  const keys = issueAll()
  const work: (() => unknown)[] = []
  const producer = kafkaClient().producer({ createPartitioner: Partitioners.DefaultPartitioner, allowAutoTopicCreation: false })
  await producer.connect()
  work.push(() => producer.disconnect())
  const publish = async (...messages: Message[]): Promise<void> => {
    await producer.send({ topic: topics.keys, acks: -1, messages })
  }
  await publish(...Object.values(keys).map(({ record }) => keyMessage(record)))
  const log = createLog('silent')
  const gateway = createGateway({
    kafka: { brokers: inject('kafkaBrokers'), topics },
    gatewayId: 'gw-ways-in',
    region: 'test',
    environments: ['prod'],
    failClosed: [],
    stalenessMs: 60_000,
    heartbeatMs: 500,
    usageWindowMs: 60_000,
    // Held-back refusals have a test of their own.
    badTokensPerSecond: 0,
    signing: { keks: [KEK] },
    // At once, and not 5 s after the start.
    replay: { windowMs: 60_000, capacity: 10_000, reorder: 4, failOpen: ['*'] },
    log,
  })
  work.push(() => gateway.stop(1_000))
  await gateway.start()
  const listener: RequestListener = (request, response) => void answer(request, response)
  const api = createServer(listener)
  work.push(() => shut(api))
  return {
    gateway,
    keys,
    log,
    api: await listen(api),
    publish,
    onClose: (more) => void work.push(more),
    async close() {
      for (const each of work.reverse()) await each()
    },
  }
}

/** Where a way in is open, and where it asks for `orders:write`. */
export interface Front {
  readonly url: URL
  readonly orders: URL
}

export interface Answered {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: string
}

/** A request with header fields as they are given, names and values in turn, as no well-behaved client would send it. */
export function ask(url: URL, headers: readonly string[], method = 'GET', body?: Uint8Array): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? [] : ['Content-Length', String(body.length)]
    const outgoing = request(
      url,
      { method, headers: ['Host', url.host, ...length, ...headers], agent: false },
      async (response) => {
        const text = (await buffer(response)).toString()
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text })
      },
    )
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}
