import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import proto from '@temporalio/proto'
import { Webhook } from 'standardwebhooks'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { webhookSecrets } from '../../activities/channels/web.ts'
import type { Notification } from '../../activities/messages/webhook.ts'
import { getCredential } from '../../registry/credentials.ts'
import { serveApi } from '../support/api.ts'
import { eventually, type House, type StartedRotation, type TestCredential } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { alertsOf } from '../support/topics.ts'

const { History } = proto.temporal.api.history.v1
const PATIENCE_MS = 90_000
const HOUR = 3_600_000
const DAY = 24 * HOUR
vi.setConfig({ testTimeout: 4 * 60_000, hookTimeout: 90_000 })

interface Received {
  readonly path: string
  readonly headers: Record<string, string>
  readonly body: string
  readonly notification: Notification
}

/** A client's webhook; `answer` decides what becomes of each request, by how many came before it. */
async function receiver(answer: (before: number, response: ServerResponse) => void = (_, response) => void response.end()) {
  const received: Received[] = []
  const server = createServer((request: IncomingMessage, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString('utf8')
      const headers = Object.fromEntries(Object.entries(request.headers).map(([name, value]) => [name, String(value)]))
      received.push({ path: request.url ?? '', headers, body, notification: JSON.parse(body) as Notification })
      answer(received.length - 1, response)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = () => {
    server.close()
    server.closeAllConnections()
  }
  onTestFinished(close)
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    received,
    host,
    close,
    of: (kind: string) => received.filter(({ notification }) => notification.type === `keyturn.rotation.${kind}`),
  }
}

const at = (host: string, path = '/hook') => [{ channel: 'webhook' as const, url: `http://${host}${path}` }]

const notified = (received: readonly Received[], count = 1) =>
  eventually(() => received.length >= count, `${count} notifications`, PATIENCE_MS)

describe('in real time', () => {
  let house: House
  beforeAll(async () => {
    house = await openHouse({ time: 'real', gateways: 1 })
  })
  afterAll(() => house.close())

  const QUICK = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0 } as const
  async function rotate(host: string, path?: string): Promise<TestCredential & StartedRotation> {
    const credential = await house.credential(['read:prices'], 'prod', at(host, path))
    return { ...credential, ...(await house.rotate(credential.credentialId, QUICK)) }
  }

  test('is signed as Standard Webhooks has it, says what it has to, and its claim URL hands out the new key', async () => {
    const client = await receiver()
    const rotation = await rotate(client.host)
    await notified(client.received)
    const [{ headers, body, notification } = expect.fail()] = client.received
    const credential = await getCredential(house.db, rotation.credentialId)
    if (credential === undefined) throw new Error('there is no credential')
    expect(new Webhook(webhookSecrets(house.sealer, credential.clientId).join()).verify(body, headers)).toEqual(notification)
    expect(() => new Webhook(webhookSecrets(house.sealer, 'cli_anotherClient0').join()).verify(body, headers)).toThrow()
    expect(() => new Webhook(webhookSecrets(house.sealer, credential.clientId).join()).verify(`${body} `, headers)).toThrow()

    const { oldKeyId, newKeyId, deadline } = await house.rotation(rotation.rotationId)
    expect(notification).toEqual({
      type: 'keyturn.rotation.introduced',
      timestamp: expect.any(String),
      data: {
        rotationId: rotation.rotationId,
        credentialId: rotation.credentialId,
        credential: credential.name,
        environment: 'prod',
        kind: 'bearer',
        oldKey: { keyId: oldKeyId, state: 'active' },
        newKey: { keyId: newKeyId, state: 'active' },
        sunsetAt: deadline?.toISOString(),
        claimUrl: expect.stringMatching(`^${house.config.publicUrl}/v1/claims/[0-9A-Za-z]{43}$`),
        stragglers: [],
      },
    })

    const api = await serveApi(house)
    const claim = () => fetch(api.url + new URL(notification.data.claimUrl ?? '').pathname, { method: 'POST' })
    const handed = await claim()
    const { token } = (await handed.json()) as { token: string }
    expect([handed.status, house.verdicts(token)]).toEqual([200, [true]])
    expect((await claim()).status).toBe(410)
    await api.stop()

    await house.use(token)
    await house.reached(rotation.rotationId, 'completed', PATIENCE_MS)
    await notified(client.received, 3)
    expect(client.received.map((each) => each.notification.type).sort()).toEqual([
      'keyturn.claim.used-twice',
      'keyturn.rotation.deactivated',
      'keyturn.rotation.introduced',
    ])
    expect(client.of('deactivated')[0]?.notification.data).not.toHaveProperty('claimUrl')
    expect(new Set(client.received.map((each) => each.headers['webhook-id'])).size).toBe(3)
  })

  test('is sent again after an error, as the same message', async () => {
    const client = await receiver((before, response) => void response.writeHead([500, 503, 429][before] ?? 200).end())
    const rotation = await rotate(client.host)
    await notified(client.received, 4)
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const first = client.received.slice(0, 4)
    expect(new Set(first.map(({ headers }) => headers['webhook-id'])).size).toBe(1)
    expect(new Set(first.map(({ notification: { timestamp: _, ...rest } }) => JSON.stringify(rest))).size).toBe(1)
  })

  test('a redirect is not followed: the link in it might lead anywhere', async () => {
    const elsewhere = await receiver()
    const client = await receiver((before, response) => {
      if (before === 0) response.writeHead(307, { location: `http://${elsewhere.host}/hook` }).end()
      else response.end()
    })
    await rotate(client.host)
    await notified(client.received, 2)
    expect(elsewhere.received).toEqual([])
  })

  test('a receiver that hangs is given up, and tried again as the same message', async () => {
    const client = await receiver((before, response) => void (before > 0 && response.end()))
    await rotate(client.host)
    await notified(client.received, 2)
    const [first, second] = client.received.map(({ headers }) => headers['webhook-id'])
    expect(first).toBe(second)
  })

  test('where all are to be told, every contact is; what one of them answers is no matter to the others', async () => {
    const [good, bad] = [
      await receiver(),
      await receiver((before, response) => void response.writeHead(before < 2 ? 500 : 200).end()),
    ]
    const credential = await house.credential(['read:prices'], 'prod', [...at(bad.host), ...at(good.host)], {
      client: { tell: 'all' },
    })
    const rotation = await house.rotate(credential.credentialId, QUICK)
    await notified(bad.received, 3)
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    expect(new Set(good.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1)
  })

  test('G5: errors name the host alone: neither the path of the webhook nor what was sent', async () => {
    const secret = `s3cr3t-${randomUUID()}`
    const client = await receiver((_, response) => void response.writeHead(500).end(`what ${secret} said`))
    const rotation = await rotate(client.host, `/hook/${secret}?token=${secret}`)
    await notified(client.received, 2)
    expect(client.received[0]?.path).toContain(secret)
    const message = `message/${client.received[0]?.headers['webhook-id']}`
    const known = await eventually(
      async () => {
        const { raw } = await house.client.workflow.getHandle(message).describe()
        return raw.pendingActivities?.find(({ lastFailure }) => lastFailure)
      },
      'the failure that Temporal knows of',
      PATIENCE_MS,
    )
    const begun = await house.client.workflow.getHandle(message).fetchHistory()
    const text = JSON.stringify([known, begun]) + Buffer.from(History.encode(begun).finish()).toString('latin1')
    expect(text).toContain(client.host)
    const code = /claims\/(\w+)/.exec(client.received[0]?.body ?? '')?.[1] ?? expect.fail()
    for (const hidden of [secret, code]) expect(text).not.toContain(hidden)
    await house.order(rotation, 'rollBack')
  })
})

describe('while time passes', () => {
  let house: House
  beforeAll(async () => {
    house = await openHouse({ time: 'skipped', gateways: 1 })
  })
  afterAll(() => house.close())

  const FORTNIGHT = { overlapMs: 14 * DAY, quietPeriodMs: DAY, regretWindowMs: 0 } as const

  test('a client that has not switched over is reminded after 50, 75 and 90 % of the overlap window, with the link it has', async () => {
    const client = await receiver()
    const credential = await house.credential(['read:prices'], 'prod', at(client.host))
    const rotation = await house.rotate(credential.credentialId, FORTNIGHT)
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const counts: number[] = []
    let passed = 0
    for (const percent of [49, 51, 74, 76, 89, 91]) {
      await house.pass((14 * DAY * (percent - passed)) / 100)
      passed = percent
      const due = [50, 75, 90].filter((mark) => mark < percent).length
      await eventually(() => client.of('reminder').length >= due, `reminder ${due}`, PATIENCE_MS)
      counts.push(client.of('reminder').length)
    }
    expect(counts).toEqual([0, 1, 1, 2, 2, 3])
    const links = [...client.of('introduced'), ...client.of('reminder')].map(({ notification }) => notification.data.claimUrl)
    expect(links).toHaveLength(4)
    expect(new Set(links).size).toBe(1)
    expect(links[0]).toBeDefined()
    await house.order(rotation, 'rollBack')
    await eventually(() => client.of('rolled-back').length === 1, 'the client is told that it is rolled back', PATIENCE_MS)
    expect(client.of('rolled-back')[0]?.notification.data).not.toHaveProperty('claimUrl')
  })

  test('a client that uses its new key is not reminded', async () => {
    const client = await receiver()
    const credential = await house.credential(['read:prices'], 'prod', at(client.host))
    const rotation = await house.rotate(credential.credentialId, FORTNIGHT)
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    await house.use(await house.claimNewKey(rotation.rotationId))
    await house.use(credential.token)
    for (const _ of [1, 2, 3]) {
      await house.pass(4 * DAY)
      await house.use(credential.token)
    }
    expect(client.of('reminder')).toEqual([])
    await house.order(rotation, 'rollBack')
    await rotation.handle.result()
  })

  test('a client that can not be told of its new key: an alert says so, the rotation is held, and goes on when it is told', async () => {
    let down = true
    const client = await receiver((_, response) => void (down ? response.destroy() : response.end()))
    const credential = await house.credential(['read:prices'], 'prod', at(client.host))
    const rotation = await house.rotate(credential.credentialId, FORTNIGHT)
    const isAt = (stage: string) =>
      eventually(
        async () => {
          await house.pass(5 * 60_000)
          const found = await house.rotation(rotation.rotationId)
          return found.stage === stage ? found : undefined
        },
        stage,
        PATIENCE_MS,
      )
    const held = await isAt('held')
    expect([held.heldFor, held.timeline.at(-1)?.reason]).toEqual(['untold', expect.stringContaining(client.host)])
    const alerts = await alertsOf(house.config.topics, credential.credentialId)
    expect(alerts.map(({ kind, rotationId }) => [kind, rotationId])).toEqual([
      ['notification-failed', rotation.rotationId],
      ['rotation-held', rotation.rotationId],
    ])
    for (const { detail } of alerts) expect(detail).toContain(client.host)
    down = false
    await isAt('monitoring')
    await house.order(rotation, 'rollBack')
    await rotation.handle.result()
    expect(client.of('rolled-back')).toHaveLength(1)
  })

  test('an operator may let a rotation go on whose client can not be told; of its end it is not held', async () => {
    const client = await receiver((_, response) => void response.writeHead(410).end())
    const credential = await house.credential(['read:prices'], 'prod', at(client.host))
    const rotation = await house.rotate(credential.credentialId, FORTNIGHT)
    expect((await house.reached(rotation.rotationId, 'held', PATIENCE_MS)).heldFor).toBe('untold')
    await house.order(rotation, 'resume')
    await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
  })
})
