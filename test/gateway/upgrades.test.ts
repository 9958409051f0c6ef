/** Requests that ask to leave HTTP: what is decided on is what the API gets, where it is, and nothing of it stays open by mistake. */
import { createServer, type IncomingMessage } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { createProxy, startServer } from '@keyturn/gateway'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openWorld, shut, type World } from './world.ts'

let world: World
beforeAll(async () => {
  world = await openWorld()
})
afterAll(() => world.close())

const ACCEPTED = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
const WEBSOCKET = ['Connection: Upgrade', 'Upgrade: websocket']

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
