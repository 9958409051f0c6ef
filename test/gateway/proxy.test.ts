import { randomBytes } from 'node:crypto'
import { createServer, request as httpRequest, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { connect } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { decodeUsageEvent, parseRotationNotice } from '@keyturn/contract'
import { createProxy, type Gateway, startServer } from '@keyturn/gateway'
import { describe, expect, onTestFinished, test } from 'vitest'
import { readTopic } from '../support/topics.ts'
import { type Bench, eventually, type IssuedKey, issueKey, keyMessage, openBench } from './support.ts'

async function listening(listener: RequestListener): Promise<{ server: Server; url: URL }> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('not a TCP address')
  return { server, url: new URL(`http://127.0.0.1:${address.port}/base`) }
}

interface Front {
  readonly url: string
  readonly opsUrl: string
  readonly bench: Bench
  readonly gateway: Gateway
  readonly key: IssuedKey
  readonly server: Awaited<ReturnType<typeof startServer>>
}

interface FrontOptions {
  readonly upstream: RequestListener | URL
  readonly key?: IssuedKey
  readonly trustedProxies?: number
  readonly upstreamTimeoutMs?: number
  readonly opsListen?: { host: string; port: number }
  readonly started?: boolean
}

/** A real gateway on a real log, in front of an API that is the given listener. */
async function openFront(options: FrontOptions): Promise<Front> {
  const bench = await openBench()
  const key = options.key ?? issueKey()
  await bench.publish(keyMessage(key.record))
  const gateway = bench.gateway({ gatewayId: 'gw-a' })
  if (options.started !== false) await gateway.start()
  const upstream = options.upstream instanceof URL ? options.upstream : (await listening(options.upstream)).url
  const proxy = createProxy({
    gateway,
    upstream,
    trustedProxies: options.trustedProxies ?? 0,
    upstreamTimeoutMs: options.upstreamTimeoutMs ?? 5_000,
    log: bench.log,
  })
  const server = await startServer({
    gateway,
    proxy,
    listen: { host: '127.0.0.1', port: 0 },
    opsListen: options.opsListen,
    idleMs: 30_000,
    log: bench.log,
  })
  onTestFinished(() => server.close())
  return { url: server.url, opsUrl: server.opsUrl, bench, gateway, key, server }
}

const echo: RequestListener = async (request, response) => {
  const body = await buffer(request)
  response.writeHead(200, { 'content-type': 'application/json', 'keyturn-key-rotation': 'made up', 'x-api': 'yes' })
  response.end(JSON.stringify({ method: request.method, url: request.url, raw: request.rawHeaders, body: body.length }))
}

interface Echo {
  readonly method: string
  readonly url: string
  readonly raw: string[]
  readonly body: number
}

/** Values of a field that reached the API, by its name in lower case. */
const fields = (echoed: Echo, name: string): string[] =>
  echoed.raw.filter((_, i) => i % 2 === 1 && echoed.raw[i - 1]?.toLowerCase() === name)

const get = (front: Front, path: string, headers: Record<string, string> = {}) =>
  fetch(front.url + path, { headers: { authorization: `Bearer ${front.key.token}`, ...headers } })

/** A request with raw header fields, as no well-behaved client would send it. */
function rawRequest(url: string, headers: string[], method = 'GET'): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    httpRequest(url, { method, headers, agent: false }, resolve).on('error', reject).end()
  })
}

describe('an accepted request', () => {
  test('reaches the API with who calls; what the caller says of that, and the key, do not', async () => {
    const front = await openFront({ upstream: echo })
    const response = await rawRequest(`${front.url}/orders?x=1`, [
      ...['Host', 'api.example', 'X-API-Key', front.key.token],
      ...['Keyturn-Client', 'cli_someoneelse', 'keyturn-scopes', '*', 'Keyturn_Key_Id', 'x', 'KEYTURN-ANYTHING', 'x'],
      ...['Connection', 'close, X-Hop', 'X-Hop', '1', 'TE', 'trailers', 'Upgrade', 'h2c', 'Proxy-Authorization', 'x'],
      ...['X-Forwarded-For', '203.0.113.1', 'Forwarded', 'for=203.0.113.1', 'X-Real-IP', '203.0.113.1'],
      ...['Cookie', 'a=1', 'X-Mine', 'one', 'X-Mine', 'two', 'X_API_Key', front.key.token],
    ])
    const echoed = JSON.parse((await buffer(response)).toString()) as Echo
    expect(echoed).toMatchObject({ method: 'GET', url: '/base/orders?x=1' })
    const ours = Object.fromEntries(
      ['keyturn-client', 'keyturn-credential', 'keyturn-key-id', 'keyturn-scopes'].map((name) => [name, fields(echoed, name)]),
    )
    const { record } = front.key
    expect(ours).toEqual({
      'keyturn-client': [record.clientId],
      'keyturn-credential': [record.credentialId],
      'keyturn-key-id': [record.keyId],
      'keyturn-scopes': ['orders:read'],
    })
    for (const gone of [
      'authorization',
      'x-api-key',
      'x_api_key',
      'keyturn_key_id',
      'keyturn-anything',
      'x-hop',
      'te',
      'upgrade',
    ]) {
      expect(fields(echoed, gone)).toEqual([])
    }
    for (const gone of ['proxy-authorization', 'forwarded', 'x-real-ip']) expect(fields(echoed, gone)).toEqual([])
    expect(JSON.stringify(echoed)).not.toContain(front.key.token)
    expect(fields(echoed, 'x-mine')).toEqual(['one', 'two'])
    expect(fields(echoed, 'x-forwarded-for')).toEqual(['127.0.0.1'])
    expect(fields(echoed, 'x-forwarded-host')).toEqual(['api.example'])
    expect(fields(echoed, 'x-forwarded-proto')).toEqual(['http'])
    expect(response.headers['x-api']).toBe('yes')
    expect(response.headers['keyturn-key-rotation']).toBeUndefined()
  })

  test('with an old key is answered with the notice of its rotation, also when the API does not answer', async () => {
    const sunsetAt = '2026-02-01T00:00:00.000Z'
    const key = issueKey({ sunsetAt, successor: 2 })
    const notice = { sunset: new Date(sunsetAt), successor: 2 }
    const front = await openFront({ upstream: echo, key })
    expect(parseRotationNotice((await get(front, '/')).headers.get('keyturn-key-rotation') ?? '')).toEqual(notice)
    const dead = await openFront({ upstream: new URL('http://127.0.0.1:1'), key })
    expect(parseRotationNotice((await get(dead, '/')).headers.get('keyturn-key-rotation') ?? '')).toEqual(notice)
  })

  test('behind a trusted proxy comes from where that proxy says, not from where the caller says', async () => {
    const front = await openFront({ upstream: echo, trustedProxies: 1 })
    const headers = { 'x-forwarded-for': '198.51.100.9, 203.0.113.1', 'x-forwarded-proto': 'https' }
    const echoed = (await (await get(front, '/', headers)).json()) as Echo
    expect(fields(echoed, 'x-forwarded-for')).toEqual(['198.51.100.9, 203.0.113.1, 127.0.0.1'])
    expect(fields(echoed, 'x-forwarded-proto')).toEqual(['https'])
    await front.gateway.flushUsage()
    const [usage] = await readTopic(front.bench.topics.usage)
    const decoded = decodeUsageEvent(usage?.value ?? '')
    expect(decoded.ok && decoded.event.data.sources[0]?.address).toBe('203.0.113.1')
  })

  test('streams a large body both ways, unchanged and without gathering it', async () => {
    const front = await openFront({
      upstream: (request, response) => {
        response.writeHead(200, { 'x-length': request.headers['content-length'] ?? 'none' })
        request.pipe(response)
      },
    })
    const chunk = randomBytes(1 << 20)
    const chunks = 64
    let sent = 0
    let received = 0
    let mostBetween = 0
    const outgoing = httpRequest(front.url, { method: 'POST', headers: { 'x-api-key': front.key.token } })
    const answered = new Promise<IncomingMessage>((resolve, reject) => outgoing.on('response', resolve).on('error', reject))
    const sending = (async () => {
      for (; sent < chunks; sent++) {
        if (!outgoing.write(chunk)) await new Promise((resolve) => outgoing.once('drain', resolve))
      }
      outgoing.end()
    })()
    const response = await answered
    for await (const part of response as AsyncIterable<Buffer>) {
      expect(part[0]).toBe(chunk[received % chunk.length])
      received += part.length
      mostBetween = Math.max(mostBetween, sent * chunk.length - received)
    }
    await sending
    expect(received).toBe(chunks * chunk.length)
    // What is under way at most: buffers of sockets and streams, not the body.
    expect(mostBetween).toBeLessThan(32 << 20)
    expect(response.headers['x-length']).toBe('none')
  })

  test.each(['HEAD', 'OPTIONS', 'DELETE', 'PUT'])('keeps its method: %s', async (method) => {
    const front = await openFront({
      upstream: (request, response) => response.writeHead(204, { 'x-method': request.method }).end(),
    })
    const response = await fetch(front.url, { method, headers: { 'x-api-key': front.key.token } })
    expect([response.status, response.headers.get('x-method')]).toEqual([204, method])
  })

  test('that asks to upgrade is answered as a plain request', async () => {
    const front = await openFront({ upstream: echo })
    const response = await rawRequest(front.url, [
      'Host',
      'x',
      'Connection',
      'Upgrade',
      'Upgrade',
      'websocket',
      'X-API-Key',
      front.key.token,
    ])
    expect(response.statusCode).toBe(200)
    response.resume()
  })

  test('that the API refuses with 401 or 403 is counted as refused upstream, and passed on as it is', async () => {
    let status = 200
    const front = await openFront({
      upstream: (_, response) => response.writeHead(status, { 'x-api': 'yes' }).end('the API says'),
    })
    for (status of [200, 401, 403, 404]) {
      const response = await get(front, '/')
      expect([response.status, response.headers.get('x-api'), await response.text()]).toEqual([status, 'yes', 'the API says'])
    }
    await front.gateway.flushUsage()
    const [usage] = await readTopic(front.bench.topics.usage)
    const decoded = decodeUsageEvent(usage?.value ?? '')
    if (!decoded.ok) throw new Error('not usage')
    expect(decoded.event.data.outcomes.map(({ outcome, count }) => [outcome, count])).toEqual([
      ['accepted', 4],
      ['refused-upstream', 2],
    ])
  })

  test.each([
    ['GET', 3],
    ['HEAD', 3],
    ['OPTIONS', 3],
    ['DELETE', 2],
  ])(
    '%s is sent once more, if it may, when the API closed the connection that was kept for it: %i requests',
    async (method, sent) => {
      let requests = 0
      const front = await openFront({
        upstream: (request, response) => {
          requests += 1
          if (requests === 2) return void request.socket.destroy()
          response.end('ok')
        },
      })
      expect(await (await get(front, '/')).text()).toBe('ok')
      const { status } = await fetch(front.url, { method, headers: { 'x-api-key': front.key.token } })
      expect([status, requests]).toEqual([sent === 3 ? 200 : 502, sent])
    },
  )

  test('with a body is never sent twice', async () => {
    let requests = 0
    const front = await openFront({
      upstream: (request) => {
        requests += 1
        request.socket.destroy()
      },
    })
    const response = await fetch(front.url, { method: 'POST', body: 'pay 1', headers: { 'x-api-key': front.key.token } })
    expect(response.status).toBe(502)
    expect(requests).toBe(1)
  })
})

describe('a refused request', () => {
  test('does not reach the API, and all refusals are one and the same', async () => {
    let reached = 0
    const front = await openFront({
      upstream: (_, response) => {
        reached += 1
        response.end()
      },
      key: issueKey({ state: 'deactivated' }),
    })
    const answers = await Promise.all(
      [front.key.token, issueKey().token, 'nonsense'].map(async (token) => {
        const response = await fetch(`${front.url}/?api_key=${token}`, { headers: { authorization: `Bearer ${token}` } })
        const headers = Object.fromEntries([...response.headers].filter(([name]) => name !== 'date'))
        return { status: response.status, headers, body: await response.text() }
      }),
    )
    expect(answers[0]).toMatchObject({
      status: 401,
      headers: { 'www-authenticate': 'Bearer', 'content-type': 'application/problem+json', 'cache-control': 'no-store' },
    })
    expect(answers[1]).toEqual(answers[0])
    expect(answers[2]).toEqual(answers[0])
    const missing = await fetch(`${front.url}/?api_key=${front.key.token}`)
    expect([missing.status, ((await missing.json()) as { code: string }).code]).toEqual([401, 'missing-key'])
    expect(reached).toBe(0)
  })

  test('is not told to send its body', async () => {
    const front = await openFront({ upstream: echo })
    const ask = (token: string) =>
      new Promise<{ continued: boolean; status: number | undefined }>((resolve, reject) => {
        let continued = false
        const request = httpRequest(front.url, {
          method: 'POST',
          headers: { expect: '100-continue', 'content-length': 5, 'x-api-key': token },
          agent: false,
        })
        request.on('continue', () => {
          continued = true
          request.end('12345')
        })
        request.on('response', (response) => {
          response.resume()
          request.destroy()
          resolve({ continued, status: response.statusCode })
        })
        request.on('error', reject)
        request.flushHeaders()
      })
    expect(await ask(issueKey().token)).toEqual({ continued: false, status: 401 })
    expect(await ask(front.key.token)).toEqual({ continued: true, status: 200 })
  })

  test('with a target that is no path is answered 400; one in absolute form never leaves for elsewhere', async () => {
    const front = await openFront({ upstream: echo })
    const { port } = new URL(front.url)
    const say = (line: string) =>
      new Promise<string>((resolve, reject) => {
        const socket = connect(Number(port), '127.0.0.1')
        let text = ''
        socket.on('data', (data) => {
          text += data.toString()
        })
        socket.on('close', () => resolve(text)).on('error', reject)
        socket.write(`${line}\r\nHost: x\r\nX-API-Key: ${front.key.token}\r\nConnection: close\r\n\r\n`)
      })
    expect(await say('OPTIONS * HTTP/1.1')).toMatch(/^HTTP\/1.1 400 /)
    expect(await say('GET http://127.0.0.1:1/elsewhere?x HTTP/1.1')).toContain('"url":"/base/elsewhere?x"')
    expect(await say('GET //127.0.0.1:1/elsewhere HTTP/1.1')).toContain('"url":"/base//127.0.0.1:1/elsewhere"')
  })
})

describe('an API that fails', () => {
  test('and does not answer, or not in time, is a 502 problem', async () => {
    const dead = await openFront({ upstream: new URL('http://127.0.0.1:1') })
    const slow = await openFront({ upstream: () => undefined, upstreamTimeoutMs: 300 })
    for (const front of [dead, slow]) {
      const response = await get(front, '/')
      expect([response.status, response.headers.get('content-type')]).toEqual([502, 'application/problem+json'])
      expect(await response.json()).toMatchObject({ code: 'upstream-unavailable', status: 502 })
    }
  })

  test('in the middle of its answer breaks the answer off: nobody takes half for the whole', async () => {
    const front = await openFront({
      upstream: (_, response) => {
        response.write('half')
        setImmediate(() => response.destroy())
      },
    })
    await expect(get(front, '/').then((response) => response.text())).rejects.toThrow()
  })

  test('hears of it when the caller has gone', async () => {
    let gone = false
    let reached: () => void = () => undefined
    const arrived = new Promise<void>((resolve) => {
      reached = resolve
    })
    const front = await openFront({
      upstream: (request) => {
        request.socket.on('close', () => {
          gone = true
        })
        reached()
      },
    })
    const caller = new AbortController()
    const asking = fetch(front.url, { headers: { 'x-api-key': front.key.token }, signal: caller.signal })
    await arrived
    caller.abort()
    await expect(asking).rejects.toThrow()
    await eventually(
      'the request to the API is cancelled',
      () => gone,
      (it) => it,
    )
  })
})

describe('what operators ask', () => {
  test('/healthz, /readyz and /metrics are answered on the same port, without a key', async () => {
    const front = await openFront({ upstream: echo })
    await get(front, '/')
    await fetch(front.url)
    expect((await fetch(`${front.url}/healthz`)).status).toBe(200)
    const ready = await fetch(`${front.url}/readyz`)
    expect([ready.status, await ready.json()]).toEqual([
      200,
      expect.objectContaining({ ready: true, freshness: 'fresh', keys: 1 }),
    ])
    const metrics = await (await fetch(`${front.url}/metrics`)).text()
    expect(metrics).toContain('keyturn_gateway_requests_total{outcome="accepted"} 1')
    expect(metrics).toContain('keyturn_gateway_requests_total{outcome="missing"} 1')
    expect(metrics).toContain('keyturn_gateway_keys_by_state{state="active"} 1')
    expect(metrics).toContain('keyturn_gateway_messages_skipped_total{reason="not-json"} 0')
    expect(metrics).toMatch(/keyturn_gateway_freshness_age_seconds \d/)
    expect(metrics).not.toContain(front.key.token)
  })

  test('on a port of their own they leave the three paths to the API', async () => {
    const front = await openFront({ upstream: echo, opsListen: { host: '127.0.0.1', port: 0 } })
    expect((await fetch(`${front.opsUrl}/readyz`)).status).toBe(200)
    expect((await fetch(`${front.opsUrl}/orders`)).status).toBe(404)
    expect((await fetch(`${front.url}/metrics`)).status).toBe(401)
    expect(((await (await get(front, '/metrics')).json()) as Echo).url).toBe('/base/metrics')
  })

  test('/readyz is 503 until everything is loaded, and requests are told to come back', async () => {
    const front = await openFront({ upstream: echo, started: false })
    expect((await fetch(`${front.url}/readyz`)).status).toBe(503)
    const response = await get(front, '/')
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1'])
    await front.gateway.start()
    expect((await fetch(`${front.url}/readyz`)).status).toBe(200)
  })
})

test('draining finishes what is under way and takes nothing new; on a port of its own it says so from the start', async () => {
  let finish: () => void = () => undefined
  const front = await openFront({
    opsListen: { host: '127.0.0.1', port: 0 },
    upstream: (_, response) => {
      finish = () => response.end('done')
      response.write('not ')
    },
  })
  const response = await get(front, '/')
  const drained = front.server.drain(5_000)
  await expect(fetch(front.url, { headers: { 'x-api-key': front.key.token } })).rejects.toThrow()
  const readiness = await fetch(`${front.opsUrl}/readyz`)
  expect([readiness.status, await readiness.json()]).toMatchObject([503, { ready: false, freshness: 'fresh' }])
  expect((await fetch(`${front.opsUrl}/healthz`)).status).toBe(200)
  finish()
  expect(await response.text()).toBe('not done')
  expect(await drained).toBe(true)
})

test('draining cuts off what does not end in time', async () => {
  const front = await openFront({ upstream: (_, response) => void response.write('for ever') })
  const response = await get(front, '/')
  const broken = expect(response.text()).rejects.toThrow()
  expect(await front.server.drain(50)).toBe(false)
  await broken
  await sleep(0)
})
