/** Clients that hold a connection by sending byte by byte, and what is no request: a clear answer, and the connection is free again. */
import { createServer, type RequestListener } from 'node:http'
import { connect } from 'node:net'
import { buffer } from 'node:stream/consumers'
import type { ProblemDocument } from '@keyturn/contract'
import { createForwardAuth, createProxy, startServer } from '@keyturn/gateway'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { addressList } from '../../gateway/src/restriction.ts'
import { eventually, issueKey } from './support.ts'
import { listen, openWorld, shut, type World } from './world.ts'

const CLIENT_MS = 600

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

async function openProxy(api: RequestListener): Promise<URL> {
  const { gateway, log } = world
  const behind = createServer(api)
  onTestFinished(() => shut(behind))
  const proxy = createProxy({ gateway, upstream: await listen(behind), trustedProxies: 0, upstreamTimeoutMs: 30_000, log })
  return open(proxy)
}

const openAuth = (): Promise<URL> =>
  open(createForwardAuth({ gateway: world.gateway, askers: addressList(['127.0.0.1']), trustedProxies: 0, log: world.log }))

async function open(proxy: Parameters<typeof startServer>[0]['proxy']): Promise<URL> {
  const { gateway, log } = world
  const at = { host: '127.0.0.1', port: 0 }
  const server = await startServer({ gateway, proxy, listen: at, idleMs: 30_000, clientMs: CLIENT_MS, log })
  onTestFinished(() => server.close())
  return new URL(server.url)
}

interface Answered {
  readonly status: number
  readonly head: string
  readonly problem: Partial<ProblemDocument>
}

/** Sends the first part at once, and then a piece every 50 ms, even when the other side has said its last word, until that has let go of the connection. */
function trickle(to: URL, first: string, pieces: readonly string[] = []): Promise<string> {
  return new Promise((resolve) => {
    let received = ''
    let [next, ended] = [0, false]
    const socket = connect({ port: Number(to.port), host: to.hostname, allowHalfOpen: true }, () => socket.write(first))
    const timer = setInterval(() => {
      const piece = pieces[next++] ?? (ended ? 'x' : undefined)
      if (piece !== undefined) socket.write(piece)
    }, 50)
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      received += text
    })
    socket.on('end', () => {
      ended = true
    })
    // A connection that is cut off while we write may end in an error; what counts is that it ends.
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearInterval(timer)
      resolve(received)
    })
  })
}

function parsed(answer: string): Answered {
  const [head = '', body = ''] = answer.split('\r\n\r\n', 2)
  return {
    status: Number(head.split(' ')[1]),
    head: head.toLowerCase(),
    problem: body.startsWith('{') ? (JSON.parse(body) as ProblemDocument) : {},
  }
}

const ENDLESS = Array.from({ length: 10_000 }, () => 'x')
const post = (path: string, token: string, ...headers: string[]): string =>
  [`POST ${path} HTTP/1.1`, 'Host: x', `X-API-Key: ${token}`, ...headers, '', ''].join('\r\n')
const tooSlow = (answer: Answered): void => {
  expect(answer).toMatchObject({ status: 408, problem: { code: 'request-too-slow', detail: expect.any(String) } })
  expect(answer.head).toContain('connection: close')
  expect(answer.head).toContain('content-type: application/problem+json')
}
const nobody: RequestListener = (_request, response) => response.end()

describe('a client that sends byte by byte', () => {
  test.each<[string, () => Promise<URL>]>([
    ['the proxy', () => openProxy(nobody)],
    ['the forward-auth server', openAuth],
  ])('its head: %s says 408 and closes', async (_, front) => {
    const url = await front()
    tooSlow(parsed(await trickle(url, 'GET /auth HTTP/1.1\r\nX-A: ', ENDLESS)))
    tooSlow(parsed(await trickle(url, '')))
  })

  test('its body: the proxy says 408 and closes, and the API hears that the body broke off', async () => {
    let cut = false
    const url = await openProxy((request) => {
      request.on('data', () => undefined)
      request.on('error', () => {
        cut = !request.complete
      })
    })
    tooSlow(parsed(await trickle(url, post('/', world.keys.good.token, 'Content-Length: 9000'), ENDLESS)))
    await eventually(
      'the API hears of it',
      () => cut,
      (it) => it,
    )
  })

  test('a body behind an answer that is out already: the connection is closed', async () => {
    const proxy = await openProxy(nobody)
    const refused = await trickle(proxy, post('/', issueKey().token, 'Content-Length: 9000'), ENDLESS)
    expect(parsed(refused)).toMatchObject({ status: 401, problem: { code: 'invalid-key' } })
    const accepted = await trickle(await openAuth(), post('/auth', world.keys.good.token, 'Transfer-Encoding: chunked'), [
      ...ENDLESS.map(() => '1\r\nx\r\n'),
    ])
    expect(parsed(accepted).status).toBe(204)
  })

  test('an answer that has begun is broken off: no second one is written into it', async () => {
    const url = await openProxy((request, response) => {
      request.on('data', () => undefined).on('error', () => undefined)
      response.writeHead(200, { 'content-length': 5 })
      response.write('half')
    })
    const answer = await trickle(url, post('/', world.keys.good.token, 'Content-Length: 9000'), ENDLESS)
    expect(answer).toMatch(/^HTTP\/1.1 200 OK\r\n/)
    expect(answer.split('\r\n\r\n').slice(1)).toEqual(['half'])
  })
})

test('a body takes as long as it needs while it comes at a fair rate', async () => {
  const url = await openProxy(async (request, response) => {
    const { length } = await buffer(request)
    response.end(String(length))
  })
  const pieces = Array.from({ length: 50 }, () => 'x'.repeat(20))
  const head = post('/', world.keys.good.token, 'Content-Length: 1000', 'Connection: close')
  const began = performance.now()
  expect(await trickle(url, head, pieces)).toMatch(/^HTTP\/1.1 200 OK\r\n(.|\r\n)*1000/)
  expect(performance.now() - began).toBeGreaterThan(3 * CLIENT_MS)
})

test('a body that waits for the API behind is not its client’s fault', async () => {
  let read: () => void = () => undefined
  const url = await openProxy((request, response) => {
    read = () => void buffer(request).then(({ length }) => response.end(String(length)))
    setTimeout(() => read(), 4 * CLIENT_MS)
  })
  const length = 16 << 20
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'x-api-key': world.keys.good.token },
    body: Buffer.alloc(length, 'x'),
  })
  expect([answer.status, await answer.text()]).toEqual([200, String(length)])
})

describe('what can not be read as HTTP', () => {
  test.each<[string, string, number, string]>([
    ['words', 'good morning\r\n\r\n', 400, 'invalid-request'],
    ['an unknown version', 'GET / HTTP/9.9\r\nHost: x\r\n\r\n', 400, 'invalid-request'],
    ['a negative length', post('/', 'x', 'Content-Length: -1'), 400, 'invalid-request'],
    ['two lengths', `${post('/', 'x', 'Content-Length: 2', 'Content-Length: 3')}{}`, 400, 'invalid-request'],
    [
      'a length and chunks',
      `${post('/', 'x', 'Content-Length: 2', 'Transfer-Encoding: chunked')}0\r\n\r\n`,
      400,
      'invalid-request',
    ],
    ['a head of 20 KiB', post('/', 'x'.repeat(20_000)), 413, 'too-large'],
  ])('%s: is answered with a problem, and the connection closed', async (_, bytes, status, code) => {
    for (const url of [await openProxy(nobody), await openAuth()]) {
      const answer = parsed(await trickle(url, bytes))
      expect(answer).toMatchObject({ status, problem: { code } })
      expect(answer.head).toContain('connection: close')
    }
  })

  test.each(['xyz\r\n', '5\r\nhello!\r\n', 'ffffffffffffffffff\r\n'])(
    'a chunk that is none (%j), behind some that were: the API never takes them for the whole body',
    async (chunk) => {
      const ends: boolean[] = []
      const url = await openProxy(async (request, response) => {
        await buffer(request).catch(() => undefined)
        ends.push(request.complete)
        response.end('taken')
      })
      const head = post('/', world.keys.good.token, 'Transfer-Encoding: chunked')
      const answer = parsed(await trickle(url, `${head}5\r\nhello\r\n`, [chunk]))
      expect(answer).toMatchObject({ status: 400, problem: { code: 'invalid-request' } })
      await eventually(
        'the API has seen the end',
        () => ends.length,
        (it) => it === 1,
      )
      expect(ends).toEqual([false])
    },
  )
})
