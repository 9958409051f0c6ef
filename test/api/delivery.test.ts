/** How new keys reach their clients: what may be chosen, and what is handed out then. */
import { generateKeyPairSync, type JsonWebKey } from 'node:crypto'
import type { KeyDelivery } from '@keyturn/contract'
import { createLocalJWKSet, type JSONWebKeySet, jwtVerify } from 'jose'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { createIdentityTokens } from '../../activities/stores/identity.ts'
import { listAudit } from '../../registry/audit.ts'
import { identityKeys } from '../../registry/identity-keys.ts'
import { createSealer } from '../../registry/sealing.ts'
import { serveApi } from '../support/api.ts'
import { decrypt, newRecipient } from '../support/recipients.ts'
import { alertsOf } from '../support/topics.ts'
import { apiHouse, type CreatedBody, newClient, reached, trigger } from './support.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })
const kit = apiHouse({})

const VAULT = {
  method: 'vault',
  address: 'https://vault.example:8200',
  mount: 'secret',
  path: 'shop/key',
  role: 'keyturn',
} as const
const AWS = {
  method: 'aws-secrets-manager',
  region: 'eu-central-1',
  secretId: 'shop/key',
  roleArn: 'arn:aws:iam::123456789012:role/keyturn',
} as const

const input = (delivery: object, kind = 'bearer') => ({
  name: `feed ${Math.random()}`,
  environment: 'prod',
  scopes: [],
  kind,
  delivery,
})
async function create(delivery: object, kind?: string): Promise<CreatedBody> {
  const path = `/v1/clients/${await newClient(kit.client)}/credentials`
  const { status, body } = await kit.client.post<CreatedBody>(path, input(delivery, kind))
  expect(status).toBe(201)
  return body
}
const shown = async (credentialId: string) =>
  (await kit.client.get<{ delivery: KeyDelivery }>(`/v1/credentials/${credentialId}`)).body.delivery
const claim = (code: string, recipient?: JsonWebKey) =>
  kit.client.post<{ jwe?: string; token?: string; code?: string; keyId?: string }>(
    `/v1/claims/${code}`,
    recipient === undefined ? {} : { recipient },
    { token: 'none' },
  )

describe('what may be chosen', () => {
  const { jwk } = newRecipient()

  test.each<object>([
    { method: 'claim' },
    { method: 'jwe', recipient: jwk },
    VAULT,
    { ...VAULT, authMount: 'login/jwt', namespace: 'team/a', field: 'api_key', audience: 'keyturn' },
    { ...VAULT, address: 'http://127.0.0.1:8200' },
    AWS,
    { ...AWS, endpoint: 'https://vpce.example', stsEndpoint: 'https://sts.example' },
  ])('is shown as it was given: %j', async (delivery) => {
    const { credentialId } = await create(delivery)
    expect(await shown(credentialId)).toEqual(delivery)
  })

  test('a credential is delivered by a claim unless it says so, and a change is in the audit log with what was before', async () => {
    const { credentialId } = await create({ method: 'claim' })
    const change = (delivery: object) =>
      kit.client.request<{ delivery: object }>('PATCH', `/v1/credentials/${credentialId}`, {
        body: { delivery, reason: 'agreed' },
      })
    expect((await change(VAULT)).body.delivery).toEqual(VAULT)
    expect((await change(VAULT)).status).toBe(200)
    expect((await change(AWS)).body.delivery).toEqual(AWS)
    expect(await shown(credentialId)).toEqual(AWS)
    const entries = await listAudit(kit.house.db, { subject: credentialId, limit: 10 })
    expect(entries.filter(({ action }) => action === 'credential.updated').map(({ detail }) => detail)).toEqual([
      { delivery: VAULT, before: { delivery: { method: 'claim' } }, reason: 'agreed' },
      { delivery: AWS, before: { delivery: VAULT }, reason: 'agreed' },
    ])
  })

  const privateKey = newRecipient().privateKey.export({ format: 'jwk' })
  const { publicKey: okp } = generateKeyPairSync('x25519')
  test.each<[object, string, string]>([
    [{ method: 'jwe' }, '/delivery/recipient', 'is missing'],
    [{ method: 'jwe', recipient: privateKey }, '/delivery/recipient', 'holds a private key'],
    [{ method: 'jwe', recipient: newRecipient('P-384').jwk }, '/delivery/recipient', 'P-256'],
    [{ method: 'jwe', recipient: okp.export({ format: 'jwk' }) }, '/delivery/recipient', 'P-256'],
    [{ method: 'claim', recipient: jwk }, '/delivery/recipient', 'has no place here'],
    [{ ...VAULT, address: 'http://vault.example' }, '/delivery/address', 'https'],
    [{ ...VAULT, address: 'https://10.0.0.1' }, '/delivery/address', 'private address'],
    [{ ...VAULT, address: 'https://me:secret@vault.example' }, '/delivery/address', 'user or a password'],
    [{ ...VAULT, address: 'https://vault.example/?a' }, '/delivery/address', 'neither ? nor #'],
    [{ ...VAULT, path: '../../sys/policies' }, '/delivery/path', 'is no path'],
    [{ ...VAULT, mount: 'a/../b' }, '/delivery/mount', 'is no path'],
    [{ ...VAULT, audience: 'keyturn/prod' }, '/delivery/audience', "Keyturn's own"],
    [{ ...VAULT, field: 'keyturn' }, '/delivery/field', 'taken'],
    [{ ...VAULT, token: 'hvs.x' }, '/delivery/token', ''],
    [{ ...VAULT, region: 'eu-central-1' }, '/delivery/region', 'has no place here'],
    [{ ...AWS, region: 'eu.evil.example/' }, '/delivery/region', 'is no region'],
    [{ ...AWS, roleArn: 'keyturn' }, '/delivery/roleArn', 'is not the ARN'],
    [{ ...AWS, endpoint: 'https://169.254.169.254' }, '/delivery/endpoint', 'link-local'],
    [{ method: 'mail' }, '/delivery/method', ''],
  ])('%j is refused, and said where', async (delivery, path, message) => {
    const clientId = await newClient(kit.client)
    const refused = await kit.client.refusal('POST', `/v1/clients/${clientId}/credentials`, { body: input(delivery) })
    expect([refused.status, refused.code]).toEqual([400, 'invalid-request'])
    expect(refused.errors?.[0]).toMatchObject({ path, message: expect.stringContaining(message) })
    expect(JSON.stringify(refused)).not.toMatch(new RegExp(`${privateKey.d}|me:secret|hvs[.]x`))
  })

  test('of an ed25519 key no secret travels: there is nothing to choose', async () => {
    const clientId = await newClient(kit.client)
    for (const delivery of [{ method: 'jwe', recipient: jwk }, VAULT, AWS]) {
      const options = { body: input(delivery, 'ed25519') }
      const refused = await kit.client.refusal('POST', `/v1/clients/${clientId}/credentials`, options)
      expect(refused.errors?.[0]).toMatchObject({
        path: '/delivery/method',
        message: expect.stringContaining('no secret travels'),
      })
    }
    const { credentialId } = await create({ method: 'claim' }, 'ed25519')
    const change = { body: { delivery: VAULT } }
    expect((await kit.client.refusal('PATCH', `/v1/credentials/${credentialId}`, change)).code).toBe('invalid-request')
  })

  test('the first key of a credential whose keys are written is claimed', async () => {
    const { claim: code } = await create(VAULT)
    expect((await claim(code)).body.token).toMatch(/^kt_prod_/)
  })
})

describe('encrypted to the registered recipient', () => {
  test.each(['bearer', 'hmac-sha256'])('of %s: whoever asks, and again; another recipient uses nothing up', async (kind) => {
    const recipient = newRecipient()
    const { claim: code, credentialId } = await create({ method: 'jwe', recipient: recipient.jwk }, kind)
    const stranger = newRecipient()
    for (const _ of [1, 2]) {
      const refused = await claim(code, stranger.jwk)
      expect([refused.status, refused.body.code]).toEqual([403, 'recipient-refused'])
    }
    const first = await claim(code)
    expect([first.status, first.body.token]).toEqual([200, undefined])
    const token = await decrypt(first.body.jwe ?? '', recipient)
    expect(token).toContain(first.body.keyId)
    for (const named of [undefined, recipient.jwk]) expect((await claim(code, named)).body.jwe).toBe(first.body.jwe)
    expect((await claim(code, stranger.jwk)).status).toBe(403)
    expect(await alertsOf(kit.house.config.topics, credentialId)).toEqual([])
    const actions = (await listAudit(kit.house.db, { limit: 1_000 })).filter(({ detail }) => detail['keyId'] === first.body.keyId)
    expect(actions.map(({ action }) => action)).toEqual(['claim.used', 'claim.repeated', 'claim.repeated'])
    for (const { detail } of actions)
      expect(detail).toMatchObject({ from: expect.stringContaining('127.0.0.1'), recipient: expect.any(String) })
  })

  test('the successor is, too, for whoever shows the old key', async () => {
    const recipient = newRecipient()
    const { claim: code, credentialId } = await create({ method: 'jwe', recipient: recipient.jwk })
    const token = await decrypt((await claim(code)).body.jwe ?? '', recipient)
    const { rotationId } = (await trigger(kit.client, credentialId)).body
    await reached(kit.client, rotationId, 'monitoring')
    const ask = (body: object) => kit.client.post<{ jwe?: string; code?: string }>('/v1/successor', body, { token })
    expect((await ask({ recipient: newRecipient().jwk })).body.code).toBe('recipient-refused')
    const { status, body } = await ask({})
    expect(status).toBe(200)
    expect(kit.house.verdicts(await decrypt(body.jwe ?? '', recipient))).toEqual([true])
  })
})

test('the public keys are those of both key-encryption keys, and the same in every process that has them', async () => {
  const [first, second] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)]
  const [both, before] = await Promise.all([identityKeys(createSealer(second, first)), identityKeys(createSealer(first))])
  expect(both.map(({ publicKey }) => publicKey)).toHaveLength(2)
  expect(both[1]?.publicKey).toEqual(before[0]?.publicKey)
  expect(both[0]?.publicKey.kid).not.toBe(before[0]?.publicKey.kid)
  const served = await kit.client.get<{ keys: object[] }>('/.well-known/identity-keys.json', { token: 'none' })
  expect(served.body.keys).toHaveLength(1)
  expect(JSON.stringify(served.body)).not.toContain('"d"')
})

test('while the key-encryption key is replaced both public keys are served, and the new one signs', async () => {
  const { config } = kit.house
  const previousKek = Buffer.alloc(32, 3)
  const api = await serveApi(kit.house, { config: { previousKek } })
  onTestFinished(() => api.stop())
  const sealer = createSealer(config.kek, previousKek)
  const kids = (await identityKeys(sealer)).map(({ publicKey }) => publicKey.kid)
  const { body } = await api.client.get<JSONWebKeySet>('/.well-known/identity-keys.json', { token: 'none' })
  expect(kids).toHaveLength(2)
  expect(body.keys.map(({ kid }) => kid)).toEqual(kids)
  const identityToken = createIdentityTokens({ sealer, issuer: config.publicUrl })
  const token = await identityToken({ credentialId: 'crd_1', clientId: 'cli_1' }, 'https://vault.example')
  const { protectedHeader } = await jwtVerify(token, createLocalJWKSet(body), { issuer: config.publicUrl })
  expect(protectedHeader.kid).toBe(kids[0])
})
