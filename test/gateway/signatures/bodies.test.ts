/** Bodies of signed requests over real connections: whole for the handler, and held for nobody who is slow or breaks off. */
import { createServer, type RequestListener, request } from 'node:http'
import { connect, type Socket } from 'node:net'
import { buffer, text } from 'node:stream/consumers'
import { createAdaptorServer } from '@hono/node-server'
import { createLog, createProxy, type Gateway, startServer } from '@keyturn/gateway'
import { keyturn as forExpress } from '@keyturn/gateway/express'
import { keyturn as forFastify } from '@keyturn/gateway/fastify'
import { keyturn as forHono } from '@keyturn/gateway/hono'
import { keyturn as forNode } from '@keyturn/gateway/node'
import express from 'express'
import { fastify } from 'fastify'
import { Hono } from 'hono'
import { expect, onTestFinished, test } from 'vitest'
import { listen, shut } from '../world.ts'
import { openOne } from './one.ts'
import { digestOf, issueHmac, signMessage, signPlain } from './signing.ts'

const key = issueHmac()

/** Its clock is the real one: connections take their time. */
function gatewayOf(signing = {}) {
  const one = openOne([key], { signing })
  Object.defineProperty(one.clock, 'now', { get: () => Date.now() })
  return { ...one, gateway: { authenticate: one.authenticate, refusedUpstream: () => undefined, follow: () => () => undefined } }
}

async function serve(listener: RequestListener): Promise<URL> {
  const server = createServer(listener)
  onTestFinished(() => shut(server))
  return new URL('/orders', await listen(server))
}

const { gateway } = gatewayOf()
const WAYS_IN: [string, () => Promise<URL>][] = [
  [
    'node:http',
    () => serve(forNode({ gateway }, async (request, response) => response.end(JSON.stringify({ got: await text(request) })))),
  ],
  [
    'Express, with its own parser after it',
    () => {
      const app = express()
      app.use(forExpress({ gateway }), express.text({ type: '*/*', limit: '2mb' }))
      app.post('/orders', (request, response) => void response.json({ got: request.body || '' }))
      return serve(app)
    },
  ],
  [
    'Fastify, with its own parser after it',
    async () => {
      const app = fastify({ bodyLimit: 2_000_000 })
      await app.register(forFastify, { gateway })
      app.post('/orders', (request) => ({ got: request.body ?? '' }))
      onTestFinished(() => app.close())
      return new URL('/orders', await app.listen({ port: 0, host: '127.0.0.1' }))
    },
  ],
  [
    'Hono',
    async () => {
      const app = new Hono()
      app.use(forHono({ gateway }))
      app.post('/orders', async (c) => c.json({ got: await c.req.text() }))
      const server = createAdaptorServer({ fetch: app.fetch })
      onTestFinished(() => void server.close())
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      const address = server.address()
      return new URL(`http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/orders`)
    },
  ],
]

/** What comes back to bytes that are written as they are, with pauses where the list has numbers (ms). */
async function raw(url: URL, parts: readonly (string | Buffer | number)[], ended = true): Promise<string> {
  const socket: Socket = connect(Number(url.port), '127.0.0.1')
  socket.on('error', () => undefined)
  const answer = buffer(socket)
  for (const part of parts) {
    if (typeof part === 'number') await new Promise((resolve) => setTimeout(resolve, part))
    else socket.write(part)
  }
  if (!ended) socket.destroy()
  return (await answer.catch(() => Buffer.alloc(0))).toString()
}

const head = (url: URL, fields: Record<string, string>): string =>
  `POST ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: close\r\nContent-Type: text/plain\r\n${Object.entries(fields)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n`
const chunk = (part: Buffer | string): Buffer =>
  Buffer.concat([Buffer.from(`${part.length.toString(16)}\r\n`), Buffer.from(part), Buffer.from('\r\n')])

test.each(WAYS_IN)(
  '%s: the handler reads the body that was compared, whatever its size and however it comes',
  async (_, open) => {
    const url = await open()
    for (const size of [1, 5_000, 70_000, 1_000_000]) {
      const body = Buffer.alloc(size, 'abc')
      const post = { method: 'POST', url, body }
      for (const fields of [await signMessage(key, post), signPlain(key, post)]) {
        const headers = { ...fields, 'content-type': 'text/plain' }
        const response = await fetch(url, { method: 'POST', headers, body })
        expect([response.status, (await response.text()).length]).toEqual([200, size + '{"got":""}'.length])
      }
    }
    const body = Buffer.from('in three parts')
    const fields = { ...(await signMessage(key, { method: 'POST', url, body })), 'transfer-encoding': 'chunked' }
    const answer = await raw(url, [head(url, fields), 20, chunk('in three'), 20, chunk(' parts'), 20, '0\r\n\r\n'])
    expect(answer).toContain('{"got":"in three parts"}')
    const empty = { ...(await signMessage(key, { method: 'POST', url, body: Buffer.alloc(0) })), 'transfer-encoding': 'chunked' }
    expect(await raw(url, [head(url, empty), 20, '0\r\n\r\n'])).toContain('{"got":""}')
    const none = await signMessage(key, { method: 'POST', url })
    expect(await raw(url, [head(url, { ...none, 'content-length': '0' })])).toContain('{"got":""}')
    expect(await raw(url, [head(url, { ...none, 'content-length': '0' })])).toContain('request-replayed')
  },
)

test.each(['node:http', 'Hono'])('%s: a client that sends a byte now and then is not waited for', async (name) => {
  const slow = gatewayOf({ bodyTimeoutMs: 300 })
  const handler = forNode({ gateway: slow.gateway }, (_, response) => response.end('in'))
  const app = new Hono()
  app.use(forHono({ gateway: slow.gateway })).post('/orders', (c) => c.text('in'))
  const server = name === 'Hono' ? createAdaptorServer({ fetch: app.fetch }) : createServer(handler)
  onTestFinished(() => shut(server as ReturnType<typeof createServer>))
  const url = new URL('/orders', await listen(server as ReturnType<typeof createServer>))
  const fields = { ...(await signMessage(key, { method: 'POST', url, body: Buffer.alloc(10) })), 'content-length': '10' }
  const answer = await raw(url, [head(url, fields), '\0', 150, '\0', 150, '\0'])
  expect(answer).toMatch(/^HTTP\/1.1 408 [\s\S]*body-too-slow/)
  expect(slow.outcomes).toEqual(['malformed'])
})

test('a body that breaks off, or is not chunked as it says, is in no handler, and its nonce is not used up', async () => {
  const one = gatewayOf()
  const handled: string[] = []
  const url = await serve(
    forNode({ gateway: one.gateway }, (request, response) => {
      handled.push(request.keyturn.keyId)
      response.end('in')
    }),
  )
  const body = Buffer.from('0123456789')
  const fields = await signMessage(key, { method: 'POST', url, body })
  await raw(url, [head(url, { ...fields, 'content-length': '10' }), '01234', 50], false)
  await raw(url, [head(url, { ...fields, 'transfer-encoding': 'chunked' }), chunk('01234'), 'no chunk at all\r\n'])
  await expect.poll(() => one.outcomes).toEqual(['malformed', 'malformed'])
  expect(handled).toEqual([])
  expect(await raw(url, [head(url, { ...fields, 'content-length': '10' }), body])).toContain('in')
  expect(handled).toEqual([key.record.keyId])
})

test('a body over the limit is refused as soon as it is, also when its length was not told', async () => {
  const one = gatewayOf({ bodyLimit: 1_000 })
  const url = await serve(forNode({ gateway: one.gateway }, (_, response) => response.end('in')))
  const body = Buffer.alloc(2_000)
  for (const fields of [await signMessage(key, { method: 'POST', url, body }), signPlain(key, { method: 'POST', url, body })]) {
    const told = await raw(url, [head(url, { ...fields, 'content-length': '2000' })])
    expect(told).toMatch(/^HTTP\/1.1 413 [\s\S]*too-large/)
    const untold = await raw(url, [head(url, { ...fields, 'transfer-encoding': 'chunked' }), chunk(body)])
    expect(untold).toMatch(/^HTTP\/1.1 413 [\s\S]*too-large/)
  }
  const fits = Buffer.alloc(1_000)
  const fields = { ...(await signMessage(key, { method: 'POST', url, body: fits })), 'content-digest': digestOf(fits) }
  expect(await raw(url, [head(url, { ...fields, 'content-length': '1000' }), fits])).toContain('in')
})

test('the reverse proxy tells a client that asked whether to send its body, and passes on what it compared', async () => {
  const one = gatewayOf()
  const api = await serve(async (request, response) => response.end(`got ${(await buffer(request)).length}`))
  const proxy = createProxy({
    gateway: one.gateway,
    upstream: new URL(api.origin),
    trustedProxies: 0,
    upstreamTimeoutMs: 5_000,
    log: createLog('silent'),
  })
  const listening = { listen: { host: '127.0.0.1', port: 0 }, idleMs: 10_000, log: createLog('silent') }
  const server = await startServer({ ...listening, gateway: one.gateway as unknown as Gateway, proxy })
  onTestFinished(() => server.close())
  const url = new URL('/orders', server.url)
  const body = Buffer.alloc(5_000, 'x')
  const fields = { ...(await signMessage(key, { method: 'POST', url, body })), 'content-length': '5000', expect: '100-continue' }
  const answer = await raw(url, [head(url, fields), 200, body])
  expect(answer.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 100', 'HTTP/1.1 200'])
  expect(answer).toContain('got 5000')
  const refused = await raw(url, [head(url, { ...fields, signature: 'sig=:AAAA:' }), 100])
  expect(refused).toMatch(/^HTTP\/1.1 401/)
})

/** With a body that never ends, all of one address. */
async function holdOpen(url: URL, count: number, part: Buffer, localAddress: string): Promise<() => number> {
  let answered = 0
  for (let i = 0; i < count; i++) {
    const socket = connect({ port: Number(url.port), host: '127.0.0.1', localAddress })
    onTestFinished(() => void socket.destroy())
    socket.on('error', () => undefined).once('data', () => (answered += 1))
    const signature = { 'x-timestamp': String(Date.now()), 'x-nonce': `made-up-${i}`, 'x-signature': 'ab'.repeat(32) }
    socket.write(head(url, { 'x-key-id': key.record.keyId, ...signature, 'content-length': '1048576' }))
    socket.write(part)
  }
  return () => answered
}
const postFrom = (url: URL, localAddress: string, headers: Record<string, string>, body: Buffer): Promise<number | undefined> =>
  new Promise((resolve, reject) => {
    const outgoing = request(url, { method: 'POST', headers, localAddress, agent: false }, (response) => {
      response.resume()
      resolve(response.statusCode)
    })
    outgoing.on('error', reject).end(body)
  })

test.each([
  ['a byte of each has come', 64, Buffer.alloc(1)],
  ['nearly all of each has come', 66, Buffer.alloc(1_048_575)],
])('bodies that nobody has signed, of one address, keep out nobody: %s', async (_, count, part) => {
  const one = gatewayOf()
  let asked = 0
  const authenticate: typeof one.authenticate = (...given) => {
    asked += 1
    return one.authenticate(...given)
  }
  const url = await serve(forNode({ gateway: { ...one.gateway, authenticate } }, (_, response) => response.end('in')))
  const answered = await holdOpen(url, count, part, '127.0.0.1')
  await expect.poll(() => asked, { timeout: 20_000 }).toBe(count)
  // What is over the part of one address is sent away: the room of all is never full.
  if (part.length > 1) await expect.poll(answered, { timeout: 20_000 }).toBeGreaterThanOrEqual(count - 17)
  const body = Buffer.alloc(100_000, 'x')
  const post = { method: 'POST', url, body }
  const length = { 'content-length': String(body.length) }
  expect(await postFrom(url, '127.0.0.1', { ...(await signMessage(key, post)), ...length }, body)).toBe(200)
  expect(await postFrom(url, '127.0.0.2', { ...signPlain(key, post), ...length }, body)).toBe(200)
})
