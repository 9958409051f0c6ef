/** Connections that stay open: checked when they begin, ended with their key. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type OutgoingHttpHeader, type RequestListener, ServerResponse } from 'node:http'
import { connect as connectTo, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import websocket from '@fastify/websocket'
import { createAdaptorServer, type HttpBindings, upgradeWebSocket } from '@hono/node-server'
import { createProxy, type GatewayServer, startServer } from '@keyturn/gateway'
import { keyturn as forExpress } from '@keyturn/gateway/express'
import { keyturn as forFastify } from '@keyturn/gateway/fastify'
import { keyturn as forHono } from '@keyturn/gateway/hono'
import { keyturn, keyturnUpgrade } from '@keyturn/gateway/node'
import express from 'express'
import { fastify } from 'fastify'
import { type Context, Hono } from 'hono'
import { streamSSE } from 'hono/streaming'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { eventually, type IssuedKey, issueKey, keyMessage } from './support.ts'
import { answer, ask, listen, openWorld, shut, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

async function newKey(overrides: Parameters<typeof issueKey>[0] = {}): Promise<IssuedKey> {
  const key = issueKey(overrides)
  await world.publish(keyMessage(key.record))
  await eventually(
    'the gateway has the key',
    () => world.gateway.cache.get(key.record.keyId),
    (it) => it !== undefined,
  )
  return key
}

/** Publishes that the key is deactivated. @returns when the gateway had applied it, in `performance.now()` */
async function deactivate({ record }: IssuedKey): Promise<() => number | undefined> {
  let appliedAt: number | undefined
  world.gateway.cache.watch(record.keyId, () => {
    appliedAt = performance.now()
  })
  await world.publish(keyMessage({ ...record, state: 'deactivated', revision: 2 }, 'keyturn.key.deactivated'))
  return () => appliedAt
}

const WRITE = ['orders:write']
const upgraded: IncomingMessage[] = []
const sockets = new WebSocketServer({ noServer: true })
const echo = (request: IncomingMessage, socket: Duplex, head: Buffer): void =>
  sockets.handleUpgrade(request, socket, head, (open) => {
    upgraded.push(request)
    open.on('message', (data) => open.send(data))
  })

async function openProxy(): Promise<{ url: URL; server: GatewayServer }> {
  const api = createServer((request, response) => void answer(request, response))
  api.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (request.url === '/none') socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Api: yes\r\n\r\nno')
    else if (request.url !== '/events') echo(request, socket, head)
    else socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: first\n\n')
  })
  world.onClose(() => shut(api))
  const { gateway, log } = world
  const proxy = createProxy({ gateway, upstream: await listen(api), trustedProxies: 0, upstreamTimeoutMs: 5_000, log })
  const server = await startServer({ gateway, proxy, listen: { host: '127.0.0.1', port: 0 }, idleMs: 30_000, log })
  world.onClose(() => server.close())
  return { url: new URL(server.url), server }
}

async function openNode(): Promise<{ url: URL }> {
  const { gateway } = world
  const server = createServer(keyturn({ gateway }, (request, response) => answer(request, response)))
  server.on('upgrade', keyturnUpgrade({ gateway }, echo))
  world.onClose(() => shut(server))
  return { url: await listen(server) }
}

/** Its plugin hands what asks to upgrade to the router: the hook of ours is on the way. */
async function openFastify(): Promise<{ url: URL }> {
  const app = fastify()
  await app.register(websocket)
  await app.register(forFastify, { gateway: world.gateway })
  app.get('/', { websocket: true }, (open, request) => {
    upgraded.push(request.raw)
    open.on('message', (data) => open.send(data))
  })
  app.get('/events', (request, reply) => {
    reply.hijack()
    return answer(request.raw, reply.raw)
  })
  world.onClose(() => app.close())
  return { url: new URL(await app.listen({ port: 0, host: '127.0.0.1' })) }
}

/** Of what Express has for it nothing is kept; what asks to upgrade is handed to the app here. */
async function openExpress(): Promise<{ url: URL }> {
  const app = express()
  const heads = new WeakMap<IncomingMessage, Buffer>()
  app.use(forExpress({ gateway: world.gateway }))
  const write = forExpress({ gateway: world.gateway, scopes: WRITE })
  const open: express.RequestHandler = (request) => void echo(request, request.socket, heads.get(request) ?? Buffer.alloc(0))
  app.get('/events', (request, response) => answer(request, response))
  app.get('/events/written', write, (request, response) => answer(request, response))
  app.get('/', open)
  app.get('/written', write, open)
  const server = createServer(app)
  server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    heads.set(request, head)
    const response = new ServerResponse(request)
    response.assignSocket(socket)
    response.on('finish', () => socket.end())
    app(request, response)
  })
  world.onClose(() => shut(server))
  return { url: await listen(server) }
}

type AdaptorOptions = Parameters<typeof createAdaptorServer>[0]
async function openHono(): Promise<{ url: URL }> {
  const app = new Hono<{ Bindings: HttpBindings }>()
  app.use(forHono({ gateway: world.gateway }))
  const write = forHono({ gateway: world.gateway, scopes: WRITE })
  const events = (c: Context) =>
    streamSSE(c, async (stream) => {
      await stream.writeSSE({ data: 'first' })
      await new Promise((resolve) => stream.onAbort(() => resolve(undefined)))
    })
  const open = upgradeWebSocket((c) => {
    upgraded.push(Object.assign(c.env.incoming, { headers: Object.fromEntries(c.req.raw.headers), rawHeaders: [] }))
    return { onMessage: ({ data }, socket) => socket.send(data as ArrayBuffer) }
  })
  app.get('/events', events)
  app.get('/events/written', write, events)
  app.get('/', open)
  app.get('/written', write, open)
  // As strictly as we compile, its types do not fit those of ws.
  const hub = new WebSocketServer({ noServer: true }) as unknown as NonNullable<AdaptorOptions['websocket']>['server']
  const server = createAdaptorServer({ fetch: app.fetch, websocket: { server: hub } })
  world.onClose(() => server.close())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  return { url: new URL(`http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`) }
}

const connect = (url: URL, key: IssuedKey, path = '/'): WebSocket =>
  new WebSocket(new URL(path, `ws://${url.host}`), { headers: { authorization: `Bearer ${key.token}`, 'keyturn-client': 'me' } })

describe.each([
  ['the reverse proxy', openProxy],
  ['node:http', openNode],
  ['Fastify', openFastify],
  ['Express', openExpress],
  ['Hono', openHono],
])('a WebSocket through %s', (name, open) => {
  test('carries messages both ways, knows who calls, and is closed within a second of its key', async () => {
    const { url } = await open()
    const key = await newKey()
    const socket = connect(url, key)
    await once(socket, 'open')
    const big = Buffer.alloc(200_000, 'x')
    const echoed = once(socket, 'message')
    socket.send(big)
    expect(((await echoed)[0] as Buffer).equals(big)).toBe(true)
    const request = upgraded.at(-1)
    expect(request?.headers['keyturn-client']).toBe(key.record.clientId)
    expect(JSON.stringify(request?.rawHeaders)).not.toContain(key.token)
    const closed = once(socket, 'close').then(() => performance.now())
    const appliedAt = await deactivate(key)
    expect((await closed) - (appliedAt() ?? Number.NaN)).toBeLessThan(1_000)
  })

  test('is refused like any other request', async () => {
    const { url } = await open()
    const before = upgraded.length
    const refused = connect(url, issueKey())
    refused.on('error', () => undefined)
    const [, response] = (await once(refused, 'unexpected-response')) as [unknown, IncomingMessage]
    expect([response.statusCode, response.headers['www-authenticate']]).toEqual([401, 'Bearer'])
    const body = Buffer.concat((await response.toArray()) as Buffer[]).toString()
    // Hono's server keeps it for itself.
    if (name !== 'Hono') expect(JSON.parse(body)).toMatchObject({ code: 'invalid-key' })
    expect(upgraded).toHaveLength(before)
  })
})

describe.each([
  ['the reverse proxy', openProxy],
  ['node:http', openNode],
  ['Fastify', openFastify],
  ['Express', openExpress],
  ['Hono', openHono],
])('an event stream through %s', (_, open) => {
  test('is cut off within a second of its key', async () => {
    const { url } = await open()
    const key = await newKey()
    const response = await fetch(new URL('/events', url), { headers: { authorization: `Bearer ${key.token}` } })
    await isCutOff(response, key)
  })
})

async function isCutOff(response: Response, key: IssuedKey): Promise<void> {
  const reader = response.body?.getReader()
  expect(Buffer.from((await reader?.read())?.value ?? []).toString()).toBe('data: first\n\n')
  const ended = (async () => {
    while ((await reader?.read())?.done === false);
  })().then(
    () => performance.now(),
    () => performance.now(),
  )
  const appliedAt = await deactivate(key)
  expect((await ended) - (appliedAt() ?? Number.NaN)).toBeLessThan(1_000)
}

describe.each<[string, OutgoingHttpHeader[] | Record<string, string>]>([
  ['in capitals', { 'Content-Type': 'Text/Event-Stream; charset=utf-8' }],
  ['as a list', ['Content-Type', 'text/event-stream']],
  ['as a list behind others', ['Cache-Control', 'no-store', 'content-type', ' TEXT/EVENT-STREAM;charset=utf-8']],
])('an event stream whose type is written %s', (_, fields) => {
  const stream: RequestListener = (_request, response) => {
    response.writeHead(200, fields as OutgoingHttpHeader[])
    response.write('data: first\n\n')
  }

  test.each([
    ['node:http', (listener: RequestListener) => keyturn({ gateway: world.gateway }, listener)],
    [
      'the reverse proxy',
      async (listener: RequestListener) => {
        const api = createServer(listener)
        world.onClose(() => shut(api))
        const { gateway, log } = world
        const proxy = createProxy({ gateway, upstream: await listen(api), trustedProxies: 0, upstreamTimeoutMs: 5_000, log })
        world.onClose(() => proxy.close())
        return proxy.handle
      },
    ],
  ])('is cut off with its key, too: %s', async (_name, through) => {
    const listener: RequestListener = await through(stream)
    const server = createServer(listener)
    world.onClose(() => shut(server))
    const key = await newKey()
    await isCutOff(await fetch(await listen(server), { headers: { 'x-api-key': key.token } }), key)
  })
})

const OFFER = ['Connection: Upgrade', 'Upgrade: websocket']

/** A connection on which requests are written by hand. */
function talk(url: URL) {
  const socket = connectTo(Number(url.port), url.hostname)
  world.onClose(() => socket.destroy())
  let text = ''
  socket.on('data', (data: Buffer) => {
    text += data.toString()
  })
  socket.on('error', () => undefined)
  return {
    closed: new Promise<number>((resolve) => socket.once('close', () => resolve(performance.now()))),
    send: (path: string, token: string, ...fields: string[]) =>
      socket.write([`GET ${path} HTTP/1.1`, 'Host: x', `X-API-Key: ${token}`, ...fields, '', ''].join('\r\n')),
    /** All that has come since the last time, when this is in it. */
    async heard(what: string): Promise<string> {
      const all = await eventually(
        `it says ${what}`,
        () => text,
        (it) => it.includes(what),
        5_000,
      )
      text = ''
      return all
    },
  }
}

test('an event stream that was asked for as a WebSocket is cut off with its key', async () => {
  const { url } = await openProxy()
  const key = await newKey()
  const connection = talk(url)
  connection.send('/events', key.token, ...OFFER)
  await connection.heard('data: first')
  const appliedAt = await deactivate(key)
  expect((await connection.closed) - (appliedAt() ?? Number.NaN)).toBeLessThan(1_000)
})

test('an offer that a framework answers plainly is followed no longer than its answer takes: the connection may be of many', async () => {
  const app = express()
  app.use(forExpress({ gateway: world.gateway }), (_request, response) => void response.send('plain'))
  const server = createServer(app)
  world.onClose(() => shut(server))
  const key = await newKey()
  const connection = talk(await listen(server))
  connection.send('/', key.token, ...OFFER)
  await connection.heard('plain')
  const appliedAt = await deactivate(key)
  await eventually('the key has ended', appliedAt, (it) => it !== undefined)
  connection.send('/', world.keys.good.token)
  expect(await connection.heard('plain')).toContain('HTTP/1.1 200 OK')
})

test.each([
  ['Express', openExpress],
  ['Hono', openHono],
])('%s: what is open ends when its key loses what the route asks for beside the app', async (_, open) => {
  const { url } = await open()
  const key = await newKey({ scopes: ['orders:read', 'orders:write'] })
  const socket = connect(url, key, '/written')
  await once(socket, 'open')
  const closed = once(socket, 'close')
  const response = await fetch(new URL('/events/written', url), { headers: { 'x-api-key': key.token } })
  const cut = response.text().catch(() => 'cut off')
  await world.publish(keyMessage({ ...key.record, scopes: ['orders:read'], revision: 2 }, 'keyturn.key.updated'))
  await closed
  await cut
})

test('a WebSocket ends when its key expires', async () => {
  const { url } = await openProxy()
  const key = await newKey({ expiresAt: new Date(Date.now() + 2_000).toISOString() })
  const socket = connect(url, key)
  await once(socket, 'open')
  await once(socket, 'close')
  expect(Date.now()).toBeGreaterThanOrEqual(Date.parse(key.record.expiresAt ?? '') - 50)
})

test('what the API answers instead of a WebSocket is passed on, and counted when it is a refusal', async () => {
  const { url } = await openProxy()
  const counted = async () =>
    Number(/^keyturn_gateway_upstream_refusals_total (\d+)$/m.exec(await world.gateway.metrics.metrics())?.[1])
  const before = await counted()
  const refused = connect(url, world.keys.good, '/none')
  refused.on('error', () => undefined)
  const [, response] = (await once(refused, 'unexpected-response')) as [unknown, IncomingMessage]
  expect([response.statusCode, response.headers['x-api']]).toEqual([403, 'yes'])
  expect(Buffer.concat((await response.toArray()) as Buffer[]).toString()).toBe('no')
  expect(await counted()).toBe(before + 1)
})

test('an offer of another protocol is answered as a plain request', async () => {
  const { url } = await openProxy()
  const fields = ['Connection', 'Upgrade, HTTP2-Settings', 'Upgrade', 'h2c', 'X-API-Key', world.keys.good.token]
  const answered = await ask(url, fields)
  expect([answered.status, (JSON.parse(answered.body) as { headers: object }).headers]).toEqual([
    200,
    expect.objectContaining({ 'keyturn-key-id': [world.keys.good.record.keyId] }),
  ])
})

test('draining lets a WebSocket go on until its patience is over', async () => {
  const { url, server } = await openProxy()
  const socket = connect(url, world.keys.good)
  await once(socket, 'open')
  const drained = server.drain(300)
  const echoed = once(socket, 'message')
  socket.send('still there')
  await echoed
  const closed = once(socket, 'close')
  expect(await drained).toBe(false)
  await closed
})
