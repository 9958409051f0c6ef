import { generateKeyPairSync } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import pino from 'pino'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createGithubKeys } from '../../api/github-keys.ts'
import { fileWith, keyList, newSigningKey } from '../support/reporting.ts'

const log = pino({ level: 'silent' })
const one = newSigningKey()
const two = newSigningKey()
const HOUR = 3_600_000

let server: Server
let url: string
let asked: IncomingHttpHeaders[] = []
let answer: (headers: IncomingHttpHeaders, response: ServerResponse) => void
beforeAll(async () => {
  server = createServer((request, response) => {
    asked.push(request.headers)
    answer(request.headers, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`
})
afterAll(() => server.close())
beforeEach(() => {
  asked = []
  answer = (headers, response) => {
    if (headers['if-none-match'] === '"1"') response.writeHead(304).end()
    else response.writeHead(200, { etag: '"1"' }).end(keyList(one))
  }
})

function keysAt(source: string, start = 1_000_000_000) {
  const time = { now: start }
  return { keys: createGithubKeys(source, { log, clock: () => time.now }), time }
}
const unavailable = { code: 'dependency-unavailable' }

describe('from an address', () => {
  test('are fetched once, and then asked for by their tag, when they are an hour old', async () => {
    const { keys, time } = keysAt(url)
    const found = await Promise.all(Array.from({ length: 10 }, () => keys.find(one.identifier)))
    expect(found.every((key) => key?.current === true)).toBe(true)
    expect(asked).toHaveLength(1)
    time.now += HOUR - 1
    await keys.find(one.identifier)
    expect(asked).toHaveLength(1)
    time.now += 1
    expect(await keys.find(one.identifier)).toBeDefined()
    expect(asked.map((headers) => headers['if-none-match'])).toEqual([undefined, '"1"'])
  })

  test('an unknown identifier is a reason to ask again, once a minute', async () => {
    const { keys, time } = keysAt(url)
    expect(await keys.find(two.identifier)).toBeUndefined()
    for (let i = 0; i < 100; i++) expect(await keys.find(`made up ${i}`)).toBeUndefined()
    expect(asked).toHaveLength(1)
    time.now += 60_000
    answer = (_, response) => response.writeHead(200, { etag: '"2"' }).end(keyList(one, two))
    expect(await keys.find(two.identifier)).toMatchObject({ current: true })
    expect(asked).toHaveLength(2)
  })

  test('a key that is given up is known as such after an hour', async () => {
    const { keys, time } = keysAt(url)
    expect(await keys.find(one.identifier)).toMatchObject({ current: true })
    answer = (_, response) => response.writeHead(200).end(keyList({ ...one, current: false }, two))
    time.now += HOUR
    expect(await keys.find(one.identifier)).toMatchObject({ current: false })
  })

  test('what is known stays known while the address does not answer; with nothing known the sender is told to come again', async () => {
    const known = keysAt(url)
    await known.keys.find(one.identifier)
    answer = (_, response) => response.writeHead(500).end()
    known.time.now += HOUR
    expect(await known.keys.find(one.identifier)).toBeDefined()
    await expect(keysAt(url).keys.find(one.identifier)).rejects.toMatchObject(unavailable)
  })

  test.each([
    ['no list', '{}'],
    ['no JSON', '<html>'],
    ['more than a megabyte', `${keyList(one)}${' '.repeat(1_000_001)}`],
    [
      'a key of another kind',
      JSON.stringify({
        public_keys: [
          {
            key_identifier: 'x',
            key: generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' }),
            is_current: true,
          },
        ],
      }),
    ],
    [
      'a key on another curve',
      JSON.stringify({
        public_keys: [
          {
            key_identifier: 'x',
            key: generateKeyPairSync('ec', { namedCurve: 'P-384' }).publicKey.export({ type: 'spki', format: 'pem' }),
            is_current: true,
          },
        ],
      }),
    ],
  ])('%s is not taken', async (_, body) => {
    answer = (_headers, response) => response.writeHead(200).end(body)
    await expect(keysAt(url).keys.find('x')).rejects.toMatchObject(unavailable)
  })

  test('is not followed to another address', async () => {
    answer = (_, response) => response.writeHead(302, { location: `${url}2` }).end()
    await expect(keysAt(url).keys.find(one.identifier)).rejects.toMatchObject(unavailable)
    expect(asked).toHaveLength(1)
  })
})

describe('from a file', () => {
  test('are read again when the file has changed', async () => {
    const path = fileWith(keyList(one))
    const { keys } = keysAt(path)
    expect([await keys.find(one.identifier), await keys.find(two.identifier)]).toEqual([expect.anything(), undefined])
    writeFileSync(path, keyList(two))
    expect([await keys.find(one.identifier), await keys.find(two.identifier)]).toEqual([undefined, expect.anything()])
  })

  test('the bare key in base64 is as good as PEM', async () => {
    const base64 = one.pem.replaceAll(/-----[A-Z ]+-----|\n/g, '')
    expect(await keysAt(fileWith(keyList({ identifier: 'x', pem: base64 }))).keys.find('x')).toMatchObject({ current: true })
  })

  test('a file that is not there, or holds something else, is said to be so', async () => {
    const path = fileWith('nonsense')
    await expect(keysAt(path).keys.find('x')).rejects.toMatchObject(unavailable)
    rmSync(path)
    await expect(keysAt(path).keys.find('x')).rejects.toMatchObject(unavailable)
  })
})
