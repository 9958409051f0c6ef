/** What is no HTTP request, or breaks off in the middle of one. */
import { type AddressInfo, connect, createServer } from 'node:net'
import type { ProblemDocument } from '@keyturn/contract'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { answerUnreadable } from '../../api/connections.ts'
import { eventually } from '../support/house.ts'
import { apiHouse, contentsOf, newClient } from './support.ts'

const at = apiHouse({ gateways: 0, worker: false, collector: false })

/** Sends bytes and collects what comes back until the other side closes, or until `halfway` answers with more or with the end. */
function exchange(bytes: string | Buffer, then: 'wait' | 'end' | 'destroy' = 'wait', url = at.client.url): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    let received = ''
    const socket = connect(Number(port), hostname, () => {
      socket.write(bytes)
      if (then === 'end') socket.end()
      if (then === 'destroy') socket.destroySoon()
    })
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      received += text
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(received))
  })
}

function parsed(answer: string): { status: number; headers: string; problem: ProblemDocument } {
  const [head = '', body = ''] = answer.split('\r\n\r\n', 2)
  return { status: Number(head.split(' ')[1]), headers: head.toLowerCase(), problem: JSON.parse(body) as ProblemDocument }
}

const post = (headers: readonly string[], body = '') =>
  [`POST /v1/clients HTTP/1.1`, 'Host: x', `Authorization: Bearer ${at.house.config.operatorToken}`, ...headers, '', body].join(
    '\r\n',
  )

let before: Record<string, string>
beforeEach(async () => {
  await newClient(at.client)
  before = await contentsOf(at.house)
})

describe('what can not be read as HTTP is answered with a problem document, and the connection closed', () => {
  test.each<[what: string, bytes: () => string | Buffer, code: string, status: number]>([
    ['words', () => 'good morning\r\n\r\n', 'invalid-request', 400],
    ['a TLS handshake', () => Buffer.from('16030100c8010000c40303', 'hex'), 'invalid-request', 400],
    ['an unknown version', () => 'GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n', 'invalid-request', 400],
    ['an unknown method', () => 'FETCH /healthz HTTP/1.1\r\nHost: x\r\n\r\n', 'invalid-request', 400],
    ['a header without a name', () => 'GET /healthz HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n', 'invalid-request', 400],
    ['a NUL in a header', () => 'GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n', 'invalid-request', 400],
    ['a negative length', () => post(['Content-Length: -1']), 'invalid-request', 400],
    ['two lengths', () => post(['Content-Length: 2', 'Content-Length: 3'], '{}'), 'invalid-request', 400],
    ['a length and chunks', () => post(['Content-Length: 2', 'Transfer-Encoding: chunked'], '0\r\n\r\n'), 'invalid-request', 400],
    ['a head of 20 KiB', () => `GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ${'a'.repeat(20_000)}\r\n\r\n`, 'too-large', 413],
  ])('%s', async (_, bytes, code, status) => {
    const answer = parsed(await exchange(bytes()))
    expect(answer.status).toBe(status)
    expect(answer.headers).toContain('content-type: application/problem+json')
    expect(answer.headers).toContain('connection: close')
    expect(answer.problem).toMatchObject({ code, status, detail: expect.stringMatching(/.{20}/) })
    expect(await contentsOf(at.house)).toEqual(before)
  })

  test('a request that does not come in time', async () => {
    const late = Object.assign(new Error(), {
      code: 'ERR_HTTP_REQUEST_TIMEOUT',
      bytesParsed: 0,
      rawPacket: { type: '', data: [] },
    })
    const server = createServer((socket) => answerUnreadable(late, socket))
    onTestFinished(() => void server.close())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const answer = parsed(await exchange('GET /heal', 'wait', `http://127.0.0.1:${(server.address() as AddressInfo).port}`))
    expect([answer.status, answer.problem.code, answer.problem.detail]).toEqual([
      408,
      'request-too-slow',
      'A request comes within a minute, all of it.',
    ])
  })

  test('a request without a Host header', async () => {
    const { status, problem } = parsed(await exchange('GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n'))
    expect([status, problem.code, problem.detail]).toEqual([400, 'invalid-request', 'An HTTP/1.1 request has a Host header.'])
  })
})

describe('a request that breaks off makes nothing, and the server goes on', () => {
  const body = '{"name": "Half a client"}'
  test.each<[what: string, bytes: () => string, then: 'end' | 'destroy']>([
    ['in its head', () => post([]).slice(0, 40), 'end'],
    ['in its body', () => post(['Content-Type: application/json', `Content-Length: ${body.length}`], body.slice(0, -5)), 'end'],
    ['in its body, without a good-bye', () => post(['Content-Type: application/json', 'Content-Length: 999'], body), 'destroy'],
    ['in a chunk', () => post(['Content-Type: application/json', 'Transfer-Encoding: chunked'], `ff\r\n${body}`), 'end'],
    ['at a chunk that is none', () => post(['Content-Type: application/json', 'Transfer-Encoding: chunked'], 'xyz\r\n'), 'end'],
  ])('%s', async (_, bytes, then) => {
    const answer = await exchange(bytes(), then)
    if (answer !== '') expect(parsed(answer).problem).toMatchObject({ status: 400 })
    expect((await at.client.get('/healthz')).status).toBe(200)
    expect(await contentsOf(at.house)).toEqual(before)
  })

  test('a whole request whose sender does not wait for the answer is carried out: it can not be told from one whose answer got lost', async () => {
    await exchange(post(['Content-Type: application/json', `Content-Length: ${body.length}`], body), 'destroy')
    await eventually(async () => (await contentsOf(at.house))['clients'] !== before['clients'], 'the client')
  })
})
