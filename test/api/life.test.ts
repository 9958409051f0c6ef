import { parseToken } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import {
  apiHouse,
  type CreatedBody,
  type CredentialBody,
  claimedCredential,
  type HandedOutBody,
  newClient,
  reached,
  redeem,
  trigger,
} from './support.ts'

const at = apiHouse({ gateways: 2 })

test('client, credential, claim: the secret is in no answer but that of the claim, and works at every gateway', async () => {
  const contacts = [{ channel: 'webhook', url: 'https://acme.example/hook' }]
  const client = await at.client.post<{ clientId: string }>('/v1/clients', { name: 'Acme Ltd', contacts })
  expect([client.status, client.headers.get('location')]).toEqual([201, `/v1/clients/${client.body.clientId}`])
  expect((await at.client.get(`/v1/clients/${client.body.clientId}`)).body).toMatchObject({ name: 'Acme Ltd', contacts })

  const input = { name: 'feed', environment: 'prod', scopes: ['read:prices', 'orders:*'] }
  const created = await at.client.post<CreatedBody>(`/v1/clients/${client.body.clientId}/credentials`, input)
  const { credentialId, keyId, claim, claimUrl } = created.body
  expect([created.status, created.headers.get('cache-control')]).toEqual([201, 'no-store'])
  expect(created.headers.get('location')).toBe(`/v1/credentials/${credentialId}`)
  expect(created.body).toMatchObject({ version: 1, propagated: true, claim: expect.stringMatching(/^[0-9A-Za-z]{43}$/) })
  expect(claimUrl).toBe(`${at.house.config.publicUrl}/v1/claims/${claim}`)

  const claimed = await redeem(at.client, claim)
  expect([claimed.status, claimed.headers.get('cache-control')]).toEqual([200, 'no-store'])
  expect(claimed.body).toEqual({ token: expect.stringMatching(/^kt_prod_/), keyId })
  expect(parseToken(claimed.body.token)).toMatchObject({ ok: true, parts: { keyId } })
  expect(at.house.verdicts(claimed.body.token)).toEqual([true, true])

  const read = await at.client.get<CredentialBody>(`/v1/credentials/${credentialId}`)
  expect(read.body).toMatchObject({ ...input, kind: 'bearer', stragglers: [] })
  expect(read.body.keys).toMatchObject([{ keyId, version: 1, state: 'active', standing: 'current' }])
  expect(read.body).not.toHaveProperty('rotationId')
  const secret = claimed.body.token.split('_')[3] ?? ''
  expect(secret).toHaveLength(43 + 6)
  expect(JSON.stringify([created.body, read.body])).not.toContain(secret)
})

test('a rotation from the request to its end, with timeline, evidence and receipts; G6: a second request joins it', async () => {
  const { credentialId, keyId, token } = await claimedCredential(at.client)
  const triggered = await trigger(at.client, credentialId)
  const { rotationId } = triggered.body
  expect([triggered.status, triggered.body]).toEqual([202, { rotationId, trigger: 'manual', joined: false }])
  expect(triggered.headers.get('location')).toBe(`/v1/rotations/${rotationId}`)
  const second = await trigger(at.client, credentialId, { reason: 'impatience', overlap: '1d' })
  expect([second.status, second.body]).toEqual([202, { rotationId, trigger: 'manual', joined: true }])

  await reached(at.client, rotationId, 'monitoring')
  await at.house.use(token)
  const during = (await at.client.get<CredentialBody>(`/v1/credentials/${credentialId}`)).body
  expect(during).toMatchObject({ rotationId, stragglers: [{ address: '192.0.2.1' }] })
  expect(during.keys).toMatchObject([
    { version: 1, state: 'active', standing: 'current', lastUsedAt: expect.any(String), sunsetAt: expect.any(String) },
    { version: 2, state: 'active', standing: 'successor' },
  ])
  const successor = (await at.client.post<HandedOutBody>('/v1/successor', undefined, { token })).body
  expect(successor).toMatchObject({ sunsetAt: expect.any(String) })
  await at.house.use(successor.token)

  const done = await reached(at.client, rotationId, 'completed')
  const stages = ['requested', 'introducing', 'notifying', 'monitoring', 'deactivating', 'completed']
  expect(done.timeline.map(({ stage }) => stage)).toEqual(stages)
  expect(done.timeline[0]).toMatchObject({ reason: 'yearly' })
  expect(done.evidence).toMatchObject({ sufficient: true, newKeyFirstUsedAt: expect.any(String), silentGateways: [] })
  expect(done).toMatchObject({
    ...{ trigger: 'manual', reason: 'yearly', oldKeyId: keyId, newKeyId: successor.keyId },
    policy: { overlap: '10m', quietPeriod: '0s', regretWindow: '0s', onDeadline: 'hold' },
  })
  const everyGateway = ['gw-1', 'gw-2'].map((gatewayId) => expect.objectContaining({ gatewayId }))
  for (const [id, event] of [
    [successor.keyId, 'keyturn.key.introduced'],
    [keyId, 'keyturn.key.deactivated'],
  ]) {
    const receipt = done.receipts.find((one) => one.keyId === id && one.event === event)
    expect(receipt).toMatchObject({ publishedAt: expect.any(String), unconfirmed: [] })
    expect([...(receipt?.gateways ?? [])].sort((a, b) => a.gatewayId.localeCompare(b.gatewayId))).toEqual(everyGateway)
    for (const { appliedAt, ms } of receipt?.gateways ?? [])
      expect(ms).toBe(Math.max(0, Date.parse(appliedAt) - Date.parse(receipt?.publishedAt ?? '')))
  }
  expect([at.house.verdicts(token), at.house.verdicts(successor.token)]).toEqual([
    [false, false],
    [true, true],
  ])
  const next = (await trigger(at.client, credentialId)).body
  expect([next.joined, next.rotationId === rotationId]).toEqual([false, false])
})

test('without quiet period the policy’s stands, and no longer than the overlap; what is not given is the default', async () => {
  const { credentialId } = await claimedCredential(at.client)
  const body = { trigger: 'manual', reason: 'yearly', overlap: 'PT90M', onDeadline: 'force' }
  const { rotationId } = (await at.client.post<{ rotationId: string }>(`/v1/credentials/${credentialId}/rotations`, body)).body
  expect((await at.client.get(`/v1/rotations/${rotationId}`)).body).toMatchObject({
    policy: { overlap: '1h30m', quietPeriod: '1h30m', regretWindow: '1h', receiptWait: '10m', onDeadline: 'force' },
  })
})

describe('an emergency', () => {
  test('G6, G9: takes a running rotation over and ends it; the old key is compromised', async () => {
    const { credentialId, token } = await claimedCredential(at.client)
    const { rotationId } = (await trigger(at.client, credentialId, { reason: 'slowly', overlap: '14d' })).body
    await reached(at.client, rotationId, 'monitoring')
    const taken = await trigger(at.client, credentialId, { trigger: 'emergency', reason: 'seen in a public repository' })
    expect([taken.status, taken.body]).toEqual([202, { rotationId, trigger: 'emergency', joined: true }])
    const done = await reached(at.client, rotationId, 'completed')
    expect(done).toMatchObject({ trigger: 'emergency', reason: 'slowly' })
    const death = { stage: 'deactivating', reason: 'seen in a public repository' }
    expect(done.timeline).toContainEqual(expect.objectContaining(death))
    expect((await at.client.get<CredentialBody>(`/v1/credentials/${credentialId}`)).body.keys).toMatchObject([
      { state: 'compromised', standing: 'retired' },
      { state: 'active', standing: 'current' },
    ])
    expect(at.house.verdicts(token)).toEqual([false, false])
    expect(await verifyAudit(at.house.db)).toMatchObject({ ok: true })
  })

  test('of its own begins with the death of the old key', async () => {
    const { credentialId, token } = await claimedCredential(at.client)
    const { rotationId } = (await trigger(at.client, credentialId, { trigger: 'emergency', reason: 'leaked' })).body
    const { timeline } = await reached(at.client, rotationId, 'completed')
    expect(timeline.map(({ stage }) => stage)).toEqual(['requested', 'deactivating', 'introducing', 'notifying', 'completed'])
    expect(at.house.verdicts(token)).toEqual([false, false])
  })
})

test('a name of any script and of full length, and one credential’s name in each environment', async () => {
  const name = `Ünïcode GmbH & Co. 株式会社 ${'🔑'.repeat(76)}`
  expect([...name]).toHaveLength(100)
  const clientId = await newClient(at.client, name)
  expect((await at.client.get(`/v1/clients/${clientId}`)).body).toMatchObject({ name, contacts: [] })
  for (const environment of ['dev', 'test', 'prod']) {
    const body = { name: 'feed', environment, scopes: [], kind: 'bearer' }
    expect((await at.client.post(`/v1/clients/${clientId}/credentials`, body)).status).toBe(201)
  }
})
