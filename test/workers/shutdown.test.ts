/** How the API ends. */
import { once } from 'node:events'
import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import { DEFAULT_POLICY, type RotationId, randomBase62 } from '@keyturn/contract'
import getPort from 'get-port'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openRotation } from '../../registry/rotations.ts'
import { serveApi } from '../support/api.ts'
import { follow, stagesOf } from '../support/event-stream.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, type Running, startProgram } from '../support/processes.ts'

const WITHIN_MS = 120_000

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
})
afterAll(() => house.close())

async function startApi(): Promise<Running & { readonly url: string }> {
  const port = await getPort({ host: '127.0.0.1' })
  const url = `http://127.0.0.1:${port}`
  const running = startProgram('workers/api-server.ts', { ...environmentOf(house, 'info'), KEYTURN_LISTEN: `127.0.0.1:${port}` })
  onTestFinished(() => running.kill())
  await running.says('"msg":"running"')
  return { ...running, url }
}

interface UnderWay {
  readonly request: ClientRequest
  readonly answer: Promise<IncomingMessage>
}

/** A request whose head the server has read, and whose body is still to come. */
async function underWay(url: string): Promise<UnderWay> {
  const agent = new Agent({ keepAlive: true })
  onTestFinished(() => agent.destroy())
  const request = httpRequest(`${url}/v1/clients`, {
    method: 'POST',
    agent,
    headers: {
      authorization: `Bearer ${house.config.operatorToken}`,
      'content-type': 'application/json',
      'content-length': BODY.length,
      expect: '100-continue',
    },
  })
  const answer = once(request, 'response').then(([response]) => response as IncomingMessage)
  answer.catch(() => undefined)
  const read = once(request, 'continue')
  request.flushHeaders()
  await read
  request.write(BODY.slice(0, 5))
  return { request, answer }
}
const BODY = '{"name": "the last one"}'

const refuses = (url: string): Promise<unknown> =>
  eventually(
    () =>
      fetch(`${url}/healthz`, { headers: { connection: 'close' } }).then(
        () => false,
        () => true,
      ),
    'new connections refused',
    WITHIN_MS,
  )

test(
  'SIGTERM: takes no new requests, finishes the one under way, ends streams of events, and exits with 0',
  async () => {
    const credential = await house.credential()
    const rotationId = `rot_${randomBase62(16)}` as RotationId
    const { credentialId } = credential
    await openRotation(house.db, {
      ...{ rotationId, credentialId, trigger: 'manual', reason: 'test', policy: DEFAULT_POLICY, at: new Date(), actor: 'test' },
    })
    const api = await startApi()
    const stream = await follow(api.url, house, rotationId)
    await eventually(() => stagesOf(stream.messages).length === 1, 'the first stage', WITHIN_MS)
    const { request, answer } = await underWay(api.url)

    api.child.kill('SIGTERM')
    await refuses(api.url)
    expect(stagesOf(await stream.ended)).toEqual(['requested'])
    expect(api.child.exitCode).toBeNull()
    request.end(BODY.slice(5))
    const response = await answer
    response.resume()
    expect([response.statusCode, response.headers.connection]).toEqual([201, 'close'])
    expect(await api.ended).toBe('exit code 0')
    expect(api.output()).toMatch(/"msg":"stopping"[\s\S]*"msg":"stopped"/)
    expect(await house.db.query(`select name from clients where name = 'the last one'`)).toHaveLength(1)
  },
  2 * WITHIN_MS,
)

test(
  'a second SIGTERM does not wait for anything',
  async () => {
    const api = await startApi()
    const { answer } = await underWay(api.url)
    api.child.kill('SIGTERM')
    await api.says('"msg":"stopping"')
    api.child.kill('SIGTERM')
    expect(await api.ended).toBe('exit code 1')
    await expect(answer).rejects.toThrow()
    expect(api.output()).not.toContain('"msg":"stopped"')
  },
  2 * WITHIN_MS,
)

test('a request whose rest does not come is cut off when the time for draining is over', async () => {
  const api = await serveApi(house)
  const { answer } = await underWay(api.url)
  await api.stop(100)
  await expect(answer).rejects.toThrow()
})
