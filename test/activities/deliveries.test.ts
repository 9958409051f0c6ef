/** Keys that are written into a client's own store: a real OpenBao, which fetches our public keys from the API; and Moto, which answers as AWS does. */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, LookupFunction } from 'node:net'
import {
  type AwsDelivery,
  IDENTITY_KEYS_PATH,
  type KeyDelivery,
  type KeyId,
  OPENID_CONFIGURATION_PATH,
  type RotationId,
  type VaultDelivery,
} from '@keyturn/contract'
import { MockActivityEnvironment } from '@temporalio/testing'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { createOutbound, type Outbound } from '../../activities/channels/outbound.ts'
import { createDeliveryActivities } from '../../activities/deliveries.ts'
import { takeOnRole } from '../../activities/stores/aws-role.ts'
import { awsStore } from '../../client/src/aws.ts'
import { createClient } from '../../client/src/index.ts'
import type { StoredCredential, StoredValue } from '../../client/src/store.ts'
import { listAudit } from '../../registry/audit.ts'
import { claimOfKey } from '../../registry/claims.ts'
import type { Database } from '../../registry/database.ts'
import { apiHouse, type HandedOutBody } from '../api/support.ts'
import { readTables, readTopics, readWorkflows } from '../integration/places.ts'
import { Secrets } from '../integration/secrets.ts'
import { placeIn, trustKeyturn } from '../support/clients-vault.ts'
import { eventually, type StartedRotation, type TestCredential } from '../support/house.ts'
import { findMoto, type Moto, startMoto } from '../support/moto.ts'
import { type Bao, findBao, startBao } from '../support/openbao.ts'
import { alertsOf } from '../support/topics.ts'

const PATIENCE_MS = 90_000
vi.setConfig({ testTimeout: 4 * 60_000, hookTimeout: 10 * 60_000 })
const say = (what: string) => void process.stderr.write(`${what}\n`)
const bao = await findBao(say)
const packages = await findMoto(say)

const office = apiHouse({})
const secrets = new Secrets()
const LONG = { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0 } as const

interface Told {
  readonly type: string
  readonly data: { readonly claimUrl?: string; readonly writtenTo?: string }
}

/** A client that is told on a webhook. */
async function clientWith(
  delivery: KeyDelivery,
  kind: 'bearer' | 'hmac-sha256' = 'bearer',
): Promise<TestCredential & { told: Told[] }> {
  const told: Told[] = []
  const port = await listening((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      told.push(JSON.parse(Buffer.concat(chunks).toString()) as Told)
      response.end()
    })
  })
  const contacts = [{ channel: 'webhook' as const, url: `http://127.0.0.1:${port}/hook` }]
  const credential = await office.house.credential(['read:prices'], 'prod', contacts, { delivery, kind })
  secrets.addToken('an old token', credential.token)
  return { ...credential, told }
}

async function listening(answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<number> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return (server.address() as AddressInfo).port
}

const holding = ({ credentialId, keyId, token }: TestCredential): StoredCredential => ({
  format: 1,
  credentialId,
  current: { keyId, kind: 'bearer', token },
})

const newKeyOf = async (rotationId: RotationId): Promise<KeyId> =>
  (await office.house.rotation(rotationId)).newKeyId ?? expect.fail('there is no new key')

const auditOf = async ({ rotationId }: { rotationId: RotationId }) =>
  (await listAudit(office.house.db, { rotationId, limit: 100 })).filter(({ action }) => action.startsWith('secret.'))

const tokenOf = (stored: StoredValue | undefined): string => {
  const { current } = stored ?? expect.fail('nothing is stored')
  if (current === undefined || current.kind === 'ed25519') expect.fail('no token is stored')
  const { token } = current
  secrets.addToken('a token that was written', token)
  return token
}

const atStage = async ({ rotationId }: { rotationId: RotationId }, stage: string) =>
  eventually(
    async () => {
      const found = await office.house.rotation(rotationId)
      return found.stage === stage && found
    },
    stage,
    PATIENCE_MS,
  )

const end = async (rotation: StartedRotation): Promise<void> => {
  await office.house.order(rotation, 'rollBack')
  await rotation.handle.result()
}

describe.skipIf(bao === undefined)('into a Vault of the client', () => {
  let vault: Bao
  beforeAll(async () => {
    vault = await startBao(bao ?? '')
    await trustKeyturn(vault, { api: office.client.url, issuer: office.house.config.publicUrl })
  })
  afterAll(() => vault?.stop())

  test('the new key is the current one before the client hears of it, the old one beside it; nothing is left to be claimed', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    await place.allow(client.credentialId)
    await place.fill(holding(client), { region: 'eu' })
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const newKeyId = await newKeyOf(rotation.rotationId)
    const stored = await place.store.read()
    expect(stored?.value).toMatchObject({
      credentialId: client.credentialId,
      current: { keyId: newKeyId, version: 2, kind: 'bearer' },
      previous: { keyId: client.keyId, token: client.token },
    })
    const token = tokenOf(stored?.value)
    expect((await place.fields()).data).toMatchObject({ token, keyId: newKeyId, region: 'eu' })
    expect(office.house.verdicts(token)).toEqual([true])

    const [told] = client.told
    expect(client.told).toHaveLength(1)
    expect(told?.type).toBe('keyturn.rotation.introduced')
    expect(told?.data.writtenTo).toBe(`vault ${new URL(vault.address).host} secret/${place.delivery.path}`)
    expect(told?.data).not.toHaveProperty('claimUrl')
    expect(await claimOfKey(office.house.db, newKeyId)).toMatchObject({ state: 'used', written: 'done' })
    expect(await auditOf(rotation)).toMatchObject([
      {
        action: 'secret.delivered',
        actor: 'keyturn',
        detail: {
          keyId: newKeyId,
          method: 'vault',
          to: told?.data.writtenTo,
          version: stored?.version,
          identity: `credential:${client.credentialId}`,
        },
      },
    ])

    // A program that sees the notice first is no thief: it looks into its store.
    const asked = await office.client.refusal('POST', '/v1/successor', { token: client.token })
    expect([asked.status, asked.code]).toEqual([409, 'delivered-elsewhere'])
    expect(await alertsOf(office.house.config.topics, client.credentialId)).toEqual([])
    await office.house.use(token)
    expect(await rotation.handle.result()).toBe('completed')
  })

  test("the client's library goes on with what was written, and makes nothing of it", async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    await place.allow(client.credentialId)
    await place.fill(holding(client))
    const shown: string[] = []
    const port = await listening((request, response) => {
      const key = request.headers.authorization ?? ''
      shown.push(key.slice('Bearer '.length))
      response
        .writeHead(200, key.endsWith(client.token) ? { 'keyturn-key-rotation': 'sunset=@4102444800, successor=2' } : {})
        .end()
    })
    const library = createClient({ store: place.store, api: office.client.url })
    onTestFinished(() => library.close())
    const url = `http://127.0.0.1:${port}/`
    expect((await library.fetch(url)).status).toBe(200)
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const token = await eventually(
      async () => {
        await library.fetch(url)
        return shown.at(-1) !== client.token && shown.at(-1)
      },
      'the library to take the new key',
      PATIENCE_MS,
    )
    expect(token).toBe(tokenOf((await place.store.read())?.value))
    expect(await alertsOf(office.house.config.topics, client.credentialId)).toEqual([])
    await end(rotation)
  })

  test('after a roll-back the store has the old key again, before the new one is refused', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    await place.allow(client.credentialId)
    await place.fill(holding(client))
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    tokenOf((await place.store.read())?.value)
    await end(rotation)
    expect((await place.store.read())?.value).toEqual(holding(client))
    expect((await place.fields()).data['token']).toBe(client.token)
    expect(client.told.find(({ type }) => type.endsWith('rolled-back'))?.data).not.toHaveProperty('writtenTo')
  })

  test('a token that signs, and that a person has put there, stays one that signs: nothing shows it after a roll-back', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery, 'hmac-sha256')
    await place.allow(client.credentialId)
    await vault.call(`secret/data/${place.delivery.path}`, { data: { token: client.token } })
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const key = { keyId: client.keyId, kind: 'hmac-sha256', token: client.token }
    const written = (await place.store.read())?.value
    expect(written).toMatchObject({ current: { kind: 'hmac-sha256' }, previous: key })
    tokenOf(written)
    await end(rotation)
    expect((await place.store.read())?.value.current).toEqual(key)
  })

  test('a role that Keyturn may not take on holds the rotation, and nobody can claim; it goes on where an operator resumes it', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    await place.fill(holding(client))
    const rotation = await office.house.rotate(client.credentialId, LONG)
    const held = await atStage(rotation, 'held')
    expect(held.heldFor).toBe('undelivered')
    expect(held.timeline.at(-1)?.reason).toMatch(
      new RegExp(`written into the client's store: vault .*: the login of role ${place.name} at auth/jwt was answered 400`),
    )
    expect(client.told).toEqual([])
    const code = await office.house.claimCodeOf(rotation.rotationId)
    const refused = await office.client.refusal('POST', `/v1/claims/${code}`, { token: 'none' })
    expect([refused.status, refused.code]).toEqual([409, 'delivered-elsewhere'])
    const successor = await office.client.refusal('POST', '/v1/successor', { token: client.token })
    expect(successor.code).toBe('delivered-elsewhere')

    await office.house.order(rotation, 'resume')
    await eventually(
      async () =>
        (await office.house.rotation(rotation.rotationId)).timeline.filter(({ stage }) => stage === 'held').length === 2,
      'held anew',
      PATIENCE_MS,
    )
    await place.allow(client.credentialId)
    await office.house.order(rotation, 'resume')
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    expect(office.house.verdicts(tokenOf((await place.store.read())?.value))).toEqual([true])
    expect(client.told.map(({ type }) => type)).toEqual(['keyturn.rotation.introduced'])
    await end(rotation)
  })

  test('a role for another credential does not serve', async () => {
    const place = placeIn(vault)
    const [client, other] = [await clientWith(place.delivery), await clientWith(place.delivery)]
    await place.allow(other.credentialId)
    const rotation = await office.house.rotate(client.credentialId, LONG)
    expect((await atStage(rotation, 'held')).heldFor).toBe('undelivered')
    expect(await place.store.read()).toBeUndefined()
    await end(rotation)
    // Nothing was begun there, so there is nothing to be taken back.
    const alerts = await alertsOf(office.house.config.topics, client.credentialId)
    expect(alerts.map(({ kind }) => kind)).not.toContain('delivery-failed')
  })

  test('while it is held, the delivery may be changed to a claim, which the client is then told of', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await atStage(rotation, 'held')
    const path = `/v1/credentials/${client.credentialId}`
    const changed = await office.client.request('PATCH', path, {
      body: { delivery: { method: 'claim' }, reason: 'no Vault any more' },
    })
    expect(changed.status).toBe(200)
    await office.house.order(rotation, 'resume')
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const claimUrl = client.told.at(-1)?.data.claimUrl ?? expect.fail('there is no claim')
    const claimed = await office.client.post<HandedOutBody>(new URL(claimUrl).pathname, undefined, { token: 'none' })
    expect(claimed.status).toBe(200)
    secrets.addToken('a token that was claimed', claimed.body.token)
    expect(await auditOf(rotation)).toEqual([])
    await end(rotation)
  })

  test('an emergency does not wait for a Vault that refuses: the client is told of a claim, and people of what was not done', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    const rotation = await office.house.rotate(client.credentialId, LONG, 'emergency')
    expect(await rotation.handle.result()).toBe('completed')
    const claimUrl = client.told.find(({ type }) => type.endsWith('emergency'))?.data.claimUrl ?? expect.fail('there is no claim')
    const claimed = await office.client.post<HandedOutBody>(new URL(claimUrl).pathname, undefined, { token: 'none' })
    secrets.addToken('a token that was claimed', claimed.body.token)
    expect(office.house.verdicts(claimed.body.token)).toEqual([true])
    expect(await auditOf(rotation)).toMatchObject([{ action: 'secret.not-delivered', detail: { keyId: claimed.body.keyId } }])
    const alerts = await alertsOf(office.house.config.topics, client.credentialId)
    expect(alerts.map(({ kind }) => kind)).toContain('delivery-failed')
  })

  test('an emergency writes the new key where it can', async () => {
    const place = placeIn(vault)
    const client = await clientWith(place.delivery)
    await place.allow(client.credentialId)
    await place.fill(holding(client))
    const rotation = await office.house.rotate(client.credentialId, LONG, 'emergency')
    expect(await rotation.handle.result()).toBe('completed')
    expect(office.house.verdicts(tokenOf((await place.store.read())?.value))).toEqual([true])
    expect(client.told.find(({ type }) => type.endsWith('emergency'))?.data.writtenTo).toContain(place.name)
  })

  describe('one activity at a time', () => {
    /** A rotation that is held because nobody may write yet; then it may be written, by activities of the test. */
    async function waiting() {
      const place = placeIn(vault)
      const client = await clientWith(place.delivery)
      await place.fill(holding(client), { region: 'eu' })
      const rotation = await office.house.rotate(client.credentialId, LONG)
      await atStage(rotation, 'held')
      await place.allow(client.credentialId)
      const keyId = await newKeyOf(rotation.rotationId)
      const run = (parts: { db?: Database; fetch?: Outbound['fetch'] } = {}): Promise<void> =>
        activitiesWith(parts).deliver({ rotationId: rotation.rotationId, keyId })
      return { place, client, rotation, keyId, run }
    }

    test('killed between the write and the note, it writes nothing again and notes it once', async () => {
      const { place, rotation, run } = await waiting()
      const dying = { ...office.house.db, tx: () => Promise.reject(new Error('killed')) } as unknown as Database
      const { query } = office.house.db
      await expect(run({ db: { ...dying, query: query.bind(office.house.db) } as Database })).rejects.toThrow('vault')
      const { version } = await place.fields()
      expect(await auditOf(rotation)).toEqual([])
      await run()
      await run()
      expect((await place.fields()).version).toBe(version)
      expect(await auditOf(rotation)).toMatchObject([{ action: 'secret.delivered', detail: { version: String(version) } }])
      tokenOf((await place.store.read())?.value)
      await end(rotation)
    })

    test('who writes at the same moment loses nothing, and neither does the new key', async () => {
      const { place, client, rotation, keyId, run } = await waiting()
      let others = 2
      const racing: Outbound['fetch'] = async (input, init) => {
        const url = typeof input === 'string' ? input : ''
        if (url.includes('/data/') && init?.method === 'POST' && others > 0) {
          others -= 1
          const { data } = await place.fields()
          await vault.call(`secret/data/${place.delivery.path}`, { data: { ...data, [`of-others-${others}`]: 'kept' } })
        }
        return outboundFetch(input, init)
      }
      await run({ fetch: racing })
      const { data } = await place.fields()
      expect(data).toMatchObject({ keyId, 'of-others-0': 'kept', 'of-others-1': 'kept', region: 'eu' })
      const stored = (await place.store.read())?.value
      expect(stored).toMatchObject({ current: { keyId }, previous: { keyId: client.keyId } })
      tokenOf(stored)
      await end(rotation)
    })

    test('two at once: it is written and noted once', async () => {
      const { place, rotation, keyId, run } = await waiting()
      const { version } = await place.fields()
      await Promise.all([run(), run(), run()])
      expect(await place.fields()).toMatchObject({ version: version + 1, data: { keyId } })
      expect(await auditOf(rotation)).toHaveLength(1)
      tokenOf((await place.store.read())?.value)
      await end(rotation)
    })

    test('rolled back while it is being written, the old key is put back', async () => {
      const { place, client, rotation, run } = await waiting()
      const late: Outbound['fetch'] = async (input, init) => {
        if (typeof input === 'string' && input.includes('/data/') && init?.method === 'POST' && !rolledBack) {
          rolledBack = true
          await end(rotation)
        }
        return outboundFetch(input, init)
      }
      let rolledBack = false
      await run({ fetch: late })
      expect((await place.store.read())?.value.current).toEqual(holding(client).current)
      expect(await auditOf(rotation)).toEqual([])
    })

    test('cut off until the roll-back is over, it reads the store and writes nothing any more', async () => {
      const { place, client, rotation, run } = await waiting()
      const dying = { ...office.house.db, tx: () => Promise.reject(new Error('killed')) } as unknown as Database
      const { query } = office.house.db
      let cutOff = true
      const late: Outbound['fetch'] = async (input, init) => {
        if (typeof input === 'string' && input.includes('/data/') && cutOff) {
          cutOff = false
          await end(rotation)
        }
        return outboundFetch(input, init)
      }
      await run({ fetch: late, db: { ...dying, query: query.bind(office.house.db) } as Database })
      expect((await place.store.read())?.value.current).toEqual(holding(client).current)
    })

    test('a sealed Vault, one that answers with what it was sent, one that sends elsewhere: what is said holds nothing of the key', async () => {
      const { rotation, client, keyId } = await waiting()
      let answer: (body: string, response: ServerResponse) => void = () => {}
      const port = await listening((request, response) => {
        const chunks: Buffer[] = []
        request.on('data', (chunk: Buffer) => chunks.push(chunk))
        request.on('end', () => {
          const body = Buffer.concat(chunks).toString()
          const login = request.url?.endsWith('/login')
          if (request.url?.endsWith('/revoke-self')) response.writeHead(204).end()
          else if (login) response.end(JSON.stringify({ auth: { client_token: 'hvs.of-the-double' } }))
          else if (request.method === 'GET') response.writeHead(404).end('{"errors":[]}')
          else answer(body, response)
        })
      })
      const delivery: VaultDelivery = {
        method: 'vault',
        address: `http://127.0.0.1:${port}`,
        mount: 'secret',
        path: 'x',
        role: 'r',
      }
      await office.client.request('PATCH', `/v1/credentials/${client.credentialId}`, { body: { delivery } })
      const { deliver } = activitiesWith()
      let sent = ''
      const failure = async (status: number, headers: Record<string, string> = {}) => {
        answer = (body, response) => {
          sent = body
          response.writeHead(status, headers).end(JSON.stringify({ errors: [body] }))
        }
        const error: unknown = await deliver({ rotationId: rotation.rotationId, keyId }).catch((thrown: unknown) => thrown)
        return error as { message: string; nonRetryable: boolean; cause?: unknown; stack?: string }
      }
      for (const [status, refused] of [
        [503, false],
        [400, true],
        [403, true],
        [307, true],
      ] as const) {
        const { message, nonRetryable, cause, stack } = await failure(status, { location: 'http://127.0.0.1:9/' })
        const token = (JSON.parse(sent) as { data: { token: string } }).data.token
        expect(token).toMatch(/^kt_prod_/)
        secrets.addToken('a token that was sent', token)
        expect([status, nonRetryable]).toEqual([status, refused])
        expect(`${message} ${String(cause)} ${stack}`).not.toContain(token.slice(-49))
      }
      await end(rotation)
    })
  })

  test('G5: no token that was written is in a history, a topic or a table', async () => {
    const { house } = office
    const places = [
      ...(await readWorkflows(house.client, house.config.taskQueue)),
      ...(await readTopics(house.config.kafkaBrokers, Object.values(house.config.topics))),
      ...(await readTables(house.db)),
    ]
    expect(secrets.count).toBeGreaterThan(20)
    expect(places.some(({ bytes }) => bytes.includes('secret.delivered'))).toBe(true)
    expect(secrets.search(places)).toEqual([])
  })
})

/** Without a worker between; `fetch` and `db` may be made to fail. */
function activitiesWith({ db = office.house.db, fetch = outboundFetch }: { db?: Database; fetch?: Outbound['fetch'] } = {}) {
  const { sealer, config } = office.house
  const { deliverKey } = createDeliveryActivities({ db, sealer, outbound: { fetch }, publicUrl: config.publicUrl })
  return {
    deliver: ({ rotationId, keyId }: { rotationId: RotationId; keyId: KeyId }): Promise<void> =>
      new MockActivityEnvironment().run(deliverKey, { rotationId, keyId, actor: 'test', at: Date.now() }),
  }
}

const outboundFetch: Outbound['fetch'] = async (input, init) => {
  const outbound = createOutbound({ allow: office.house.config.delivery.webhookAllow })
  try {
    return await outbound.fetch(input, init)
  } finally {
    await outbound.close()
  }
}

describe.skipIf(packages === undefined)('into AWS Secrets Manager', () => {
  let moto: Moto
  beforeAll(async () => {
    moto = await startMoto(packages ?? '')
  })
  afterAll(() => moto?.stop())

  const REGION = 'eu-central-1'
  const delivery = (secretId: string): AwsDelivery => ({
    method: 'aws-secrets-manager',
    region: REGION,
    secretId,
    roleArn: 'arn:aws:iam::123456789012:role/keyturn',
    endpoint: moto.endpoint,
    stsEndpoint: moto.endpoint,
  })
  const storeOf = (secretId: string) =>
    awsStore({
      secretId,
      region: REGION,
      endpoint: moto.endpoint,
      credentials: async () => ({ accessKeyId: 'testing', secretAccessKey: 'testing' }),
    })

  test('the new key is AWSCURRENT before the client hears of it, and the old one AWSPREVIOUS', async () => {
    const secretId = 'shop/provider-key'
    const client = await clientWith(delivery(secretId))
    const store = storeOf(secretId)
    await store.replace(holding(client), undefined)
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    const stored = await store.read()
    expect(stored?.value).toMatchObject({ previous: holding(client).current })
    const token = tokenOf(stored?.value)
    expect(office.house.verdicts(token)).toEqual([true])
    expect(client.told[0]?.data.writtenTo).toBe(`aws-secrets-manager ${REGION} ${secretId}`)
    expect(await auditOf(rotation)).toMatchObject([
      {
        action: 'secret.delivered',
        detail: { method: 'aws-secrets-manager', to: client.told[0]?.data.writtenTo, version: stored?.version },
      },
    ])
    await end(rotation)
    expect((await store.read())?.value).toEqual(holding(client))
  })

  test('AWS is shown a token for this credential alone, which our public keys verify', async () => {
    const tokens: string[] = []
    const port = await listening((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', async () => {
        const body = Buffer.concat(chunks).toString()
        tokens.push(new URLSearchParams(body).get('WebIdentityToken') ?? '')
        const answer = await fetch(moto.endpoint, { method: 'POST', body: new URLSearchParams(body) })
        response.writeHead(answer.status).end(await answer.text())
      })
    })
    const client = await clientWith({ ...delivery('shop/another-key'), stsEndpoint: `http://127.0.0.1:${port}` })
    const rotation = await office.house.rotate(client.credentialId, LONG)
    await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
    tokenOf((await storeOf('shop/another-key').read())?.value)
    const { jwks_uri, issuer } = (
      await office.client.get<{ jwks_uri: string; issuer: string }>(OPENID_CONFIGURATION_PATH, { token: 'none' })
    ).body
    expect(jwks_uri).toBe(office.house.config.publicUrl + IDENTITY_KEYS_PATH)
    const keys = createRemoteJWKSet(new URL(office.client.url + IDENTITY_KEYS_PATH))
    const terms = { issuer, audience: 'sts.amazonaws.com', algorithms: ['ES256'] }
    const { payload } = await jwtVerify(tokens[0] ?? '', keys, terms)
    expect(payload.sub).toBe(`credential:${client.credentialId}`)
    expect((payload.exp ?? 0) - Math.floor(Date.now() / 1_000)).toBeLessThanOrEqual(300)
    await end(rotation)
  })

  test.each([
    [403, 'AccessDenied', true],
    [400, 'InvalidIdentityToken', true],
    [400, 'IDPCommunicationError', false],
    [400, 'Throttling', false],
    [503, 'ServiceUnavailable', false],
  ])('STS answers %i %s: refused for good is %s', async (status, code, refused) => {
    const fetch: Outbound['fetch'] = async () =>
      new Response(`<ErrorResponse><Error><Code>${code}</Code></Error></ErrorResponse>`, { status })
    const asked = { jwt: 'a token', session: 'a session' }
    await expect(
      takeOnRole(delivery('shop/refused'), asked, { fetch, signal: new AbortController().signal }),
    ).rejects.toMatchObject({ refused, message: expect.stringContaining(`${status} ${code}`) })
  })
})

test('a name that leads back into our network is not written to, whatever it was when it was given', async () => {
  const lookup: LookupFunction = (_, options, callback) => {
    if (options.all === true) callback(null, [{ address: '10.0.0.7', family: 4 }])
    else callback(null, '10.0.0.7', 4)
  }
  const outbound = createOutbound({ allow: [], lookup })
  onTestFinished(() => outbound.close())
  const client = await clientWith({ method: 'claim' })
  const rotation = await office.house.rotate(client.credentialId, LONG)
  await office.house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
  const keyId = await newKeyOf(rotation.rotationId)
  const { db } = office.house
  const delivery: VaultDelivery = { method: 'vault', address: 'https://vault.example', mount: 'secret', path: 'x', role: 'r' }
  await db.query('update credentials set delivery = $2 where credential_id = $1', [client.credentialId, delivery])
  await db.query(`update claims set delivery = 'due' where key_id = $1`, [keyId])
  await expect(activitiesWith({ fetch: outbound.fetch }).deliver({ ...rotation, keyId })).rejects.toMatchObject({
    nonRetryable: true,
    message: 'vault vault.example secret/x: vault.example leads to a private address',
  })
  await end(rotation)
})
