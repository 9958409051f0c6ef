/** Where clients may have us send something, on real connections. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo, LookupFunction } from 'node:net'
import { type AddressBlock, parseAddressBlock } from '@keyturn/contract'
import { expect, onTestFinished, test } from 'vitest'
import { createOutbound } from '../../activities/channels/outbound.ts'

async function listener(host = '127.0.0.1', port = 0) {
  let requests = 0
  const server = createServer((_, response) => {
    requests += 1
    response.writeHead(204, { connection: 'close' }).end()
  })
  server.listen(port, host)
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return { port: (server.address() as AddressInfo).port, requests: () => requests }
}

const block = (text: string): AddressBlock => parseAddressBlock(text) ?? expect.fail()
const outbound = (allow: string[], lookup?: LookupFunction) => {
  const made = createOutbound({ allow: allow.map(block), ...(lookup === undefined ? {} : { lookup }) })
  onTestFinished(() => made.close())
  return {
    post: (url: string) => made.post(url, { headers: {}, body: '{}', signal: new AbortController().signal }),
  }
}
/** A name server that answers what it is asked for the first, second, … time. */
const answering = (...answers: string[][]): LookupFunction => {
  let asked = 0
  return (_, options, callback) => {
    const addresses = (answers[Math.min(asked++, answers.length - 1)] ?? []).map((address) => ({ address, family: 4 }))
    if (options.all === true) callback(null, addresses)
    else callback(null, addresses[0]?.address ?? '', 4)
  }
}

test.each([
  'http://127.0.0.1',
  'http://localhost',
  'http://0x7f.1',
  'http://2130706433',
  'http://[::ffff:127.0.0.1]',
  'http://127.1',
])('nothing is sent to %s', async (url) => {
  const { port, requests } = await listener()
  await expect(outbound([]).post(`${url}:${port}/`)).rejects.toMatchObject({
    refused: true,
    message: expect.stringContaining('loopback'),
  })
  expect(requests()).toBe(0)
})

test.each([
  ['https://169.254.169.254/latest/meta-data/', 'link-local'],
  ['https://[fd00:ec2::254]/', 'private'],
  ['https://10.0.0.1/', 'private'],
])('nothing is sent to %s: it is %s', async (url, why) => {
  await expect(outbound([]).post(url)).rejects.toMatchObject({ refused: true, message: expect.stringContaining(why) })
})

test('where a name leads is looked at for each connection: a name that leads elsewhere than before is refused', async () => {
  const inside = await listener('127.0.0.1')
  const outside = await listener('127.0.0.2', inside.port)
  const { post } = outbound(['127.0.0.2'], answering(['127.0.0.2'], ['127.0.0.1']))
  const url = `http://hooks.acme.example:${inside.port}/`
  expect((await post(url)).status).toBe(204)
  await expect(post(url)).rejects.toMatchObject({
    refused: true,
    message: expect.stringMatching(/^hooks\.acme\.example:\d+ leads to a loopback address$/),
  })
  expect([outside.requests(), inside.requests()]).toEqual([1, 0])
})

test('a name that leads to a public address and to one inside is refused', async () => {
  const { port, requests } = await listener()
  const { post } = outbound([], answering(['8.8.8.8', '127.0.0.1']))
  await expect(post(`https://hooks.acme.example:${port}/`)).rejects.toMatchObject({ refused: true })
  expect(requests()).toBe(0)
})

test('http is for what is allowed alone, whatever the name server says', async () => {
  const { post } = outbound([], answering(['8.8.8.8']))
  await expect(post('http://hooks.acme.example/')).rejects.toMatchObject({
    refused: true,
    message: expect.stringContaining('http'),
  })
})

test('that nobody listens there may change: it is tried again', async () => {
  const { port } = await listener()
  await expect(outbound(['127.0.0.0/8']).post(`http://127.0.0.3:${port}/secret?of=mine`)).rejects.toMatchObject({
    refused: false,
    message: `127.0.0.3:${port} could not be reached (ECONNREFUSED)`,
  })
})
