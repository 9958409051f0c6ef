/** What gateway/README.md tells a provider's developer to write is run as it stands there. */
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { createAdaptorServer } from '@hono/node-server'
import type { Authentication, Gateway } from '@keyturn/gateway'
import type { Caller } from '@keyturn/gateway/node'
import express from 'express'
import { type FastifyRequest, fastify } from 'fastify'
import { type Context, Hono } from 'hono'
import { afterAll, beforeAll, expect, inject, onTestFinished, test, vi } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { issueKey, keyMessage, openBench } from './support.ts'
import { ask, listen, openWorld, shut, type World } from './world.ts'

const readme = readFileSync(new URL('../../gateway/README.md', import.meta.url), 'utf8')
const snippets = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, text = '']) => text)

/** Runs the snippet that holds `text`, with what it takes for granted. @returns what it calls by the name of `made` */
async function run(text: string, made: string, given: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
  const [snippet = '', another] = snippets.filter((each) => each.includes(text))
  expect([snippet === '', another]).toEqual([false, undefined])
  const body = snippet.replaceAll(/^import (\{.*?\}) from '(.*?)'/gm, `const $1 = await load('$2')`)
  const AsyncFunction = (async () => undefined).constructor as FunctionConstructor
  const load = (name: string): Promise<unknown> => import(name)
  return new AsyncFunction('load', ...Object.keys(given), `${body}\nreturn ${made}`)(load, ...Object.values(given))
}

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

const bearer = (token: string): string[] => ['Authorization', `Bearer ${token}`]

/** Requests without a key, without the scope, and with both. */
async function asksForKeyAndScope(url: URL): Promise<void> {
  const { good, writer } = world.keys
  const orders = new URL('/orders', url)
  const post = (...headers: string[]) => ask(orders, ['Content-Type', 'application/json', ...headers], 'POST', Buffer.from('{}'))
  const answers = [await post(), await post(...bearer(good.token))]
  expect(answers.map(({ status, body }) => [status, JSON.parse(body).code])).toEqual([
    [401, 'missing-key'],
    [403, 'missing-scope'],
  ])
  const accepted = await post(...bearer(writer.token))
  expect([accepted.status, JSON.parse(accepted.body)]).toEqual([200, { caller: writer.record.clientId }])
}

async function open(server: Server): Promise<URL> {
  onTestFinished(() => shut(server))
  return listen(server)
}

test('Fastify', async () => {
  const app = fastify()
  const handler = async ({ keyturn }: FastifyRequest) => ({ caller: keyturn?.clientId })
  await run("'@keyturn/gateway/fastify'", 'app', { app, gateway: world.gateway, handler })
  const url = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
  onTestFinished(() => app.close())
  await asksForKeyAndScope(url)
  expect(await ask(new URL('/status', url), [])).toMatchObject({ status: 200, body: '{}' })
})

test('Express', async () => {
  const app = express()
  const handler: express.RequestHandler = ({ keyturn }, response) => void response.json({ caller: keyturn?.clientId })
  await run("'@keyturn/gateway/express'", 'app', { app, gateway: world.gateway, handler })
  await asksForKeyAndScope(await open(createServer(app)))
})

test('Hono', async () => {
  const app = new Hono()
  const handler = (c: Context<{ Variables: { keyturn: Caller } }>) => c.json({ caller: c.get('keyturn').clientId })
  await run("'@keyturn/gateway/hono'", 'app', { app, gateway: world.gateway, handler })
  await asksForKeyAndScope(await open(createAdaptorServer({ fetch: app.fetch }) as Server))
})

test('node:http, with WebSockets', async () => {
  const webSockets = new WebSocketServer({ noServer: true })
  const greet = (socket: WebSocket): void => socket.send('in')
  const server = await run("'@keyturn/gateway/node'", 'server', { gateway: world.gateway, webSockets, open: greet })
  const url = await open(server as Server)
  const { good, old } = world.keys
  expect((await ask(url, bearer(good.token))).status).toBe(200)
  expect((await ask(url, [])).status).toBe(401)
  expect(old.record.scopes).toContain('orders:read')
  const socket = new WebSocket(url.href.replace('http', 'ws'), { headers: { authorization: `Bearer ${good.token}` } })
  onTestFinished(() => socket.terminate())
  const said = await new Promise((resolve, reject) =>
    socket.once('message', (data) => resolve(String(data))).once('error', reject),
  )
  expect(said).toBe('in')
})

test('a gateway of the program’s own: made from the variables, asked without an adapter, stopped by SIGTERM', async () => {
  const { prefix, publish } = await openBench()
  const { record, token } = issueKey()
  await publish(keyMessage(record))
  vi.stubEnv('KEYTURN_KAFKA_BROKERS', inject('kafkaBrokers').join(','))
  vi.stubEnv('KEYTURN_TOPIC_PREFIX', prefix)
  vi.stubEnv('KEYTURN_GATEWAY_ID', 'orders-1')
  vi.stubEnv('KEYTURN_LOG_LEVEL', 'silent')
  onTestFinished(() => void vi.unstubAllEnvs())
  const before = process.listeners('SIGTERM')
  const gateway = (await run('optionsFromEnvironment', 'gateway')) as Gateway
  const [stop] = process.listeners('SIGTERM').filter((listener) => !before.includes(listener))
  onTestFinished(async () => {
    if (stop !== undefined) process.off('SIGTERM', stop)
    await gateway.stop(1_000)
  })
  expect(gateway.status()).toMatchObject({ gatewayId: 'orders-1', ready: true, keys: 1 })

  const said: unknown[] = []
  const listener: RequestListener = async (request: IncomingMessage, response) => {
    const console = { log: (...words: unknown[]) => said.push(words) }
    const answer = (await run('gateway.authenticate(', 'answer', { gateway, request, console })) as Authentication
    response.writeHead(answer.accepted ? 200 : answer.problem.status).end()
  }
  const url = await open(createServer(listener))
  expect([(await ask(url, bearer(token))).status, (await ask(url, [])).status]).toEqual([200, 401])
  expect(said).toMatchObject([
    [record.clientId, {}, {}],
    [401, { code: 'missing-key' }, {}],
  ])

  stop?.('SIGTERM')
  expect(gateway.ready).toBe(false)
})
