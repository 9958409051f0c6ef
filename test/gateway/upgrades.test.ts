/** Requests that ask to leave HTTP: what is decided on is what the API gets, where it is, and nothing of it stays open by mistake. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { createProxy, type Gateway, startServer } from '@keyturn/gateway'
import { keyturn, keyturnUpgrade } from '@keyturn/gateway/node'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { eventually } from './support.ts'
import { listen, openWorld, shut, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

const ACCEPTED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
const WEBSOCKET = ['Connection: Upgrade', 'Upgrade: websocket']
const H2C = ['Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA']

interface Api {
  readonly url: URL
  /** `GET /orders hello`: method, target and body. Behind `upgrade `, what came as an upgrade. */
  readonly seen: string[]
}

/** An API that writes down what reaches it. Of what asks to upgrade, `/none` gets a plain answer that does not end. */
async function openApi(host = '127.0.0.1'): Promise<Api> {
  const seen: string[] = []
  const server = createServer(async (request, response) => {
    const body = (await buffer(request)).toString()
    seen.push(`${request.method} ${request.url} ${body}`.trim())
    response.end(body)
  })
  server.on('upgrade', (request: IncomingMessage, socket: Duplex) => {
    seen.push(`upgrade ${request.method} ${request.url}`)
    socket.on('error', () => undefined)
    if (request.url !== '/none') socket.end(ACCEPTED)
    else socket.write('HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n')
  })
  onTestFinished(() => shut(server))
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  const { port } = server.address() as AddressInfo
  return { url: new URL(`http://${host === '::1' ? '[::1]' : host}:${port}`), seen }
}

async function openProxy(upstream: URL, upstreamTimeoutMs = 5_000): Promise<URL> {
  const { gateway, log } = world
  const proxy = createProxy({ gateway, upstream, trustedProxies: 0, upstreamTimeoutMs, log })
  const server = await startServer({ gateway, proxy, listen: { host: '127.0.0.1', port: 0 }, idleMs: 30_000, log })
  onTestFinished(() => server.close())
  return new URL(server.url)
}

const head = (line: string, fields: readonly string[], token = world.keys.writer.token): string =>
  [`${line} HTTP/1.1`, 'Host: x', `X-API-Key: ${token}`, ...fields, '', ''].join('\r\n')

/** Sends bytes, in packets of their own, on a connection that the caller does not close. @returns all that comes back until the other side has closed it */
function say(to: URL, ...parts: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect({ port: Number(to.port), host: to.hostname, allowHalfOpen: true })
    socket.setNoDelay(true)
    socket.on('data', (data: Buffer) => {
      text += data.toString()
    })
    socket.on('error', reject).on('end', () => resolve(text))
    onTestFinished(() => void socket.destroy())
    const send = (index: number): void => {
      const part = parts[index]
      if (part !== undefined) socket.write(part, () => setImmediate(send, index + 1))
    }
    send(0)
  })
}

const statusOf = (answer: string): number => Number(answer.split(' ', 2)[1])

describe('an upgrade through the reverse proxy', () => {
  test.each([
    '//127.0.0.1:OTHER/latest',
    '///127.0.0.1:OTHER/latest',
    '/\\127.0.0.1:OTHER/latest',
    '\\\\127.0.0.1:OTHER/latest',
    '//key@127.0.0.1:OTHER/latest',
    'http://127.0.0.1:OTHER/latest',
    'http://127.0.0.1:OTHER//127.0.0.1:OTHER/latest',
  ])('goes to the API, wherever its target says: %s', async (written) => {
    const [api, other] = [await openApi(), await openApi()]
    const target = written.replaceAll('OTHER', other.url.port)
    for (const base of ['', '/base']) {
      const answer = await say(await openProxy(new URL(base, api.url)), head(`GET ${target}`, WEBSOCKET))
      const came = api.seen.splice(0)
      if (target.startsWith('\\')) expect([statusOf(answer), came]).toEqual([400, []])
      else {
        const path = target.startsWith('http:') ? target.replace(/^http:..[^/]*/, '') : target
        expect([statusOf(answer), came]).toEqual([101, [`upgrade GET ${base}${path}`]])
      }
    }
    expect(other.seen).toEqual([])
  })

  test('reaches an API that has an address of IPv6', async () => {
    const api = await openApi('::1')
    expect(statusOf(await say(await openProxy(api.url), head('GET /x?y=1', WEBSOCKET)))).toBe(101)
    expect(api.seen).toEqual(['upgrade GET /x?y=1'])
  })
})

/** The ways in that are handed the request by `upgrade`. */
const openNode = async (api: Api): Promise<URL> => {
  const { gateway } = world
  const server = createServer(keyturn({ gateway }, () => undefined))
  const upgrade = keyturnUpgrade({ gateway }, (request, socket) => {
    api.seen.push(`upgrade ${request.method} ${request.url}`)
    socket.end(ACCEPTED)
  })
  server.on('upgrade', upgrade)
  onTestFinished(() => shut(server))
  return listen(server)
}

describe.each([
  ['the reverse proxy', (api: Api) => openProxy(api.url)],
  ['keyturnUpgrade', openNode],
])('a WebSocket through %s', (_, open) => {
  test.each([
    ['DELETE', []],
    ['POST', []],
    ['OPTIONS', []],
    ['GET', ['Content-Length: 5']],
    ['GET', ['Transfer-Encoding: chunked']],
  ])('is opened by nothing but a GET without a body: %s %j', async (method, fields) => {
    const api = await openApi()
    const url = await open(api)
    const [answer, body] = (await say(url, head(`${method} /orders`, [...WEBSOCKET, ...fields]))).split('\r\n\r\n')
    expect(statusOf(answer ?? '')).toBe(400)
    expect(JSON.parse(body ?? '')).toMatchObject({ code: 'invalid-request', detail: expect.stringContaining('GET') })
    expect(statusOf(await say(url, head('GET /orders', [...WEBSOCKET, 'Content-Length: 0'])))).toBe(101)
    expect(api.seen).toEqual(['upgrade GET /orders'])
  })
})

describe('an offer of another protocol, as curl and Java make it', () => {
  test('is passed over with any method: the request is the plain one that it also is', async () => {
    const api = await openApi()
    const url = await openProxy(api.url)
    expect([await say(url, head('GET /1', H2C)), await say(url, head('DELETE /2', H2C))].map(statusOf)).toEqual([200, 200])
    expect(api.seen).toEqual(['GET /1', 'DELETE /2'])
  })

  /** Nodes before 24 do not ask whether a request is to leave HTTP, and read no more of one that offers to. */
  test.skipIf(Number.parseInt(process.versions.node, 10) >= 24)('with a body, is refused with what to do', async () => {
    const api = await openApi()
    const url = await openProxy(api.url)
    for (const [fields, body] of [
      [['Content-Length: 5'], 'hello'],
      [['Transfer-Encoding: chunked'], '5\r\nhello\r\n0\r\n\r\n'],
    ] as const) {
      const answer = await say(url, `${head('POST /3', [...H2C, ...fields])}${body}`)
      expect([statusOf(answer), answer]).toEqual([400, expect.stringContaining('without the Upgrade field')])
    }
    expect(api.seen).toEqual([])
  })

  test('is decided on like any other request', async () => {
    const api = await openApi()
    const url = await openProxy(api.url)
    const { revoked, getOnly } = world.keys
    const asked = (token: string) => say(url, head('DELETE /', H2C, token))
    expect([statusOf(await asked(revoked.token)), statusOf(await asked(getOnly.token))]).toEqual([401, 403])
    expect(api.seen).toEqual([])
  })
})

test('what the API answers in the stead of a WebSocket is broken off when it stops: no second answer is written into it', async () => {
  const api = await openApi()
  const answer = await say(await openProxy(api.url, 300), head('GET /none', WEBSOCKET))
  expect(answer.match(/HTTP\/1.1/g)).toHaveLength(1)
  expect(answer).toMatch(/\r\n\r\ndata:$/)
})

/** A gateway that takes its time over a decision, and says how many connections it follows. */
function hesitant(): {
  gateway: Pick<Gateway, 'authenticate' | 'refusedUpstream' | 'follow'>
  asked: Promise<void>
  decide(): void
  followed(): number
} {
  const { gateway } = world
  let tell: () => void = () => undefined
  let decide: () => void = () => undefined
  const asked = new Promise<void>((resolve) => {
    tell = resolve
  })
  const decided = new Promise<void>((resolve) => {
    decide = resolve
  })
  let followed = 0
  return {
    asked,
    decide,
    followed: () => followed,
    gateway: {
      refusedUpstream: gateway.refusedUpstream,
      async authenticate(request, scopes) {
        tell()
        await decided
        return gateway.authenticate(request, scopes)
      },
      follow(...given) {
        const stop = gateway.follow(...given)
        followed += 1
        let over = false
        return () => {
          if (!over) followed -= 1
          over = true
          stop()
        }
      },
    },
  }
}

describe('a caller that leaves while it is decided', () => {
  /** A connection that has left HTTP stays half open when its caller hangs up; a broken one is closed. */
  type Leaving = readonly ['destroy' | 'resetAndDestroy', seen: 'end' | 'close']
  const HANGS_UP: Leaving = ['destroy', 'close']
  const UPGRADED: readonly Leaving[] = [
    ['destroy', 'end'],
    ['resetAndDestroy', 'close'],
  ]

  /** Asks, leaves, and lets the decision come. @returns when the way in is done with it */
  async function leave(
    server: Server,
    handled: () => Promise<unknown> | undefined,
    about: ReturnType<typeof hesitant>,
    bytes: string,
    [how, seen]: Leaving = HANGS_UP,
  ) {
    onTestFinished(() => shut(server))
    const accepted = once(server, 'connection')
    const { port } = await listen(server)
    const caller = connect(Number(port), '127.0.0.1', () => caller.write(bytes))
    const [there] = (await accepted) as [Socket]
    await about.asked
    const gone = new Promise((resolve) => there.once(seen, resolve))
    caller[how]()
    await gone
    about.decide()
    await handled()
  }

  test('is not asked for at the API, and not followed: reverse proxy', async () => {
    const api = await openApi()
    const ways = [[[], HANGS_UP] as const, ...UPGRADED.map((leaving) => [WEBSOCKET, leaving] as const)]
    for (const [fields, leaving] of ways) {
      const about = hesitant()
      const { log } = world
      const proxy = createProxy({ gateway: about.gateway, upstream: api.url, trustedProxies: 0, upstreamTimeoutMs: 1_000, log })
      onTestFinished(() => proxy.close())
      let handled: Promise<void> | undefined
      const server = createServer((request, response) => {
        handled = proxy.handle(request, response)
      })
      server.on('upgrade', (request: IncomingMessage, socket: Duplex, first: Buffer) => {
        handled = proxy.upgrade(request, socket, first)
      })
      await leave(server, () => handled, about, head('GET /none', fields), leaving)
      expect(about.followed()).toBe(0)
    }
    // By the time that this has come, anything before it has.
    expect(statusOf(await say(await openProxy(api.url), head('GET /last', WEBSOCKET)))).toBe(101)
    expect(api.seen).toEqual(['upgrade GET /last'])
  })

  test.each(UPGRADED)('is not handed on as a WebSocket, and not followed: node:http, %s', async (...leaving) => {
    const about = hesitant()
    let handed = 0
    let handled: Promise<unknown> | undefined
    const upgrade = keyturnUpgrade({ gateway: about.gateway }, () => {
      handed += 1
    })
    const server = createServer().on('upgrade', (request: IncomingMessage, socket: Duplex, first: Buffer) => {
      handled = upgrade(request, socket, first)
    })
    await leave(server, () => handled, about, head('GET /', WEBSOCKET), leaving)
    expect([handed, about.followed()]).toEqual([0, 0])
  })

  test('is not followed when its handler begins an event stream all the same', async () => {
    const about = hesitant()
    let handled: Promise<unknown> | undefined
    const server = createServer((request, response) => {
      handled = new Promise((resolve) => {
        keyturn({ gateway: about.gateway }, (_, late) => {
          late.writeHead(200, { 'content-type': 'text/event-stream' })
          resolve(undefined)
        })(request, response)
      })
    })
    await leave(server, () => handled, about, head('GET /', []))
    expect(about.followed()).toBe(0)
  })
})

describe('a connection that is refused, or answered plainly, is closed whatever its caller does', () => {
  const connections = (server: Server): Promise<number> =>
    new Promise((resolve, reject) => {
      server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)))
    })

  test.each([
    ['node:http, without a right key', 'keyturnUpgrade', '/', 'nobody', 401],
    ['reverse proxy, without a right key', 'proxy', '/', 'nobody', 401],
    ['reverse proxy, by the API', 'proxy', '/refused', undefined, 403],
  ])('%s', async (_, way, path, token, status) => {
    const { gateway, log } = world
    const api = createServer().on('upgrade', (_request, socket: Duplex) => {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno')
    })
    onTestFinished(() => shut(api))
    const proxy = createProxy({ gateway, upstream: await listen(api), trustedProxies: 0, upstreamTimeoutMs: 5_000, log })
    onTestFinished(() => proxy.close())
    const server = createServer().on('upgrade', way === 'proxy' ? proxy.upgrade : keyturnUpgrade({ gateway }, () => undefined))
    onTestFinished(() => shut(server))
    expect(statusOf(await say(await listen(server), head(`GET ${path}`, WEBSOCKET, token)))).toBe(status)
    await eventually(
      'it is closed',
      () => connections(server),
      (it) => it === 0,
      5_000,
    )
  })
})
