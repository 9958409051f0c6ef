import { createServer, type RequestListener } from 'node:http'
import { createAdaptorServer, type HttpBindings } from '@hono/node-server'
import { createProxy, startServer } from '@keyturn/gateway'
import { keyturn as forExpress } from '@keyturn/gateway/express'
import { keyturn as forFastify } from '@keyturn/gateway/fastify'
import { keyturn as forHono } from '@keyturn/gateway/hono'
import type { Caller } from '@keyturn/gateway/node'
import { keyturn as forNode } from '@keyturn/gateway/node'
import express from 'express'
import { fastify } from 'fastify'
import { Hono } from 'hono'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { behavesAsAGateway } from './suite.ts'
import { answer, ask, type Front, listen, openWorld, type Seen, shut, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

const WRITE = ['orders:write']

async function serve(listener: RequestListener): Promise<Front> {
  const server = createServer(listener)
  world.onClose(() => shut(server))
  const url = await listen(server)
  return { url, orders: new URL('/orders', url) }
}

behavesAsAGateway(
  'the Fastify plugin',
  () => world,
  async () => {
    const app = fastify({ bodyLimit: 1 << 20 })
    app.removeAllContentTypeParsers()
    app.addContentTypeParser('*', (_, __, done) => done(null))
    await app.register(forFastify, { gateway: world.gateway })
    app.all('/orders', { config: { keyturn: { scopes: WRITE } } }, (request, reply) => {
      reply.hijack()
      return answer(request.raw, reply.raw, request.keyturn?.keyId)
    })
    app.all('/*', (request, reply) => {
      reply.hijack()
      return answer(request.raw, reply.raw, request.keyturn?.keyId)
    })
    const url = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
    world.onClose(() => app.close())
    return { url, orders: new URL('/orders', url) }
  },
  { seesAnswers: true },
)

behavesAsAGateway(
  'the Express middleware',
  () => world,
  () => {
    const app = express()
    app.use(forExpress({ gateway: world.gateway }))
    app.use('/orders', forExpress({ gateway: world.gateway, scopes: WRITE }), (request, response) =>
      answer(request, response, request.keyturn?.keyId),
    )
    app.use((request, response) => answer(request, response, request.keyturn?.keyId))
    return serve(app)
  },
  { seesAnswers: true },
)

behavesAsAGateway(
  'the Hono middleware',
  () => world,
  async () => {
    const app = new Hono<{ Bindings: HttpBindings; Variables: { keyturn: Caller } }>()
    const see = async (raw: Request, caller: string): Promise<Response> => {
      const headers = Object.fromEntries([...raw.headers].map(([name, value]) => [name, [value]]))
      const { pathname, search } = new URL(raw.url)
      const body = (await raw.arrayBuffer()).byteLength
      const seen: Seen = { method: raw.method, url: pathname + search, headers, body, caller }
      return Response.json(seen, { status: pathname === '/refused' ? 401 : 200 })
    }
    app.use(forHono({ gateway: world.gateway }))
    app.all('/orders', forHono({ gateway: world.gateway, scopes: WRITE }), (c) => see(c.req.raw, c.get('keyturn').keyId))
    app.all('*', (c) => see(c.req.raw, c.get('keyturn').keyId))
    const server = createAdaptorServer({ fetch: app.fetch })
    world.onClose(() => server.close())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    const url = new URL(`http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`)
    return { url, orders: new URL('/orders', url) }
  },
  { seesAnswers: true },
)

behavesAsAGateway(
  'the handler for node:http',
  () => world,
  () => {
    const { gateway } = world
    const open = forNode({ gateway }, (request, response) => answer(request, response, request.keyturn.keyId))
    const orders = forNode({ gateway, scopes: WRITE }, (request, response) => answer(request, response, request.keyturn.keyId))
    return serve((request, response) => (request.url?.startsWith('/orders') ? orders : open)(request, response))
  },
  { seesAnswers: true },
)

behavesAsAGateway(
  'the reverse proxy',
  () => world,
  async () => {
    const open = async (scopes: readonly string[]): Promise<URL> => {
      const { gateway, log } = world
      const proxy = createProxy({ gateway, upstream: world.api, trustedProxies: 0, upstreamTimeoutMs: 5_000, log, scopes })
      const server = await startServer({ gateway, proxy, listen: { host: '127.0.0.1', port: 0 }, idleMs: 30_000, log })
      world.onClose(() => server.close())
      return new URL(server.url)
    }
    return { url: await open([]), orders: await open(WRITE) }
  },
  { seesAnswers: true },
)

test('the reverse proxy asks for scopes by path and method, also of a WebSocket', async () => {
  const { gateway, log, api, keys } = world
  const routes = [
    { path: '/orders', scope: 'orders:read' },
    { method: 'POST', path: '/orders', scope: 'orders:write' },
    { path: '/sockets', scope: 'orders:write' },
  ]
  const proxy = createProxy({ gateway, upstream: api, trustedProxies: 0, upstreamTimeoutMs: 5_000, log, routes })
  const server = await startServer({ gateway, proxy, listen: { host: '127.0.0.1', port: 0 }, idleMs: 30_000, log })
  onTestFinished(() => server.close())
  const statusOf = async (path: string, token: string, method = 'GET', ...fields: string[]) =>
    (await ask(new URL(path, server.url), ['X-API-Key', token, ...fields], method)).status
  const [reader, writer] = [keys.good.token, keys.writer.token]
  expect([await statusOf('/orders', reader), await statusOf('/orders', reader, 'POST')]).toEqual([200, 403])
  expect(await statusOf('/%6Frders/7', reader, 'POST')).toBe(403)
  expect(await statusOf('/orders', reader, 'GET', 'X-HTTP-Method-Override', 'POST')).toBe(403)
  expect([await statusOf('/orders', writer, 'POST'), await statusOf('/elsewhere', reader, 'POST')]).toEqual([200, 200])
  const upgrade = ['Connection', 'Upgrade', 'Upgrade', 'websocket']
  expect(await statusOf('/sockets', reader, 'GET', ...upgrade)).toBe(403)
  expect(() =>
    createProxy({ gateway, upstream: api, trustedProxies: 0, upstreamTimeoutMs: 1, log, routes: [{ path: '/', scope: 'No' }] }),
  ).toThrow('"No" is no scope')
})

test('a scope that no key can have is refused where it is written', async () => {
  const { gateway } = world
  const wrong = { gateway, scopes: ['Orders Write'] }
  for (const make of [forExpress, forHono]) expect(() => make(wrong)).toThrow('"Orders Write" is no scope')
  expect(() => forNode(wrong, () => undefined)).toThrow('"Orders Write" is no scope')
  const app = fastify()
  await app.register(forFastify, { gateway })
  expect(() => app.get('/', { config: { keyturn: { scopes: ['x y'] } } }, () => '')).toThrow('"x y" is no scope')
})

test('a Fastify route that is open to all is told of nobody', async () => {
  const app = fastify()
  await app.register(forFastify, { gateway: world.gateway })
  app.get('/open', { config: { keyturn: false } }, (request) => ({
    caller: request.keyturn,
    client: request.headers['keyturn-client'],
  }))
  const answered = await app.inject({ url: '/open', headers: { 'keyturn-client': 'cli_someoneelse' } })
  expect([answered.statusCode, answered.json()]).toEqual([200, {}])
})
