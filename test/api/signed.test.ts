/** Keys that sign requests, shown to the control plane itself. */
import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import type { KeyId, ProblemDocument } from '@keyturn/contract'
import { decodeJwt } from 'jose'
import { describe, expect, test } from 'vitest'
import { type SigningPair, signMessage } from '../gateway/signatures/signing.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { decrypt, newRecipient } from '../support/recipients.ts'
import { apiHouse, type CreatedBody, newClient, reached, redeem, trigger } from './support.ts'

const at = apiHouse({})
const problemOf = ({ body }: { body: unknown }): ProblemDocument => body as ProblemDocument
const raw = (key: KeyObject): string => Buffer.from(key.export({ format: 'jwk' }).x ?? '', 'base64url').toString('base64')

async function create(more: object): Promise<CreatedBody> {
  const input = { name: 'feed', environment: 'prod', scopes: ['trade:orders'], ...more }
  return (await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, input)).body
}

type Kind = 'hmac-sha256' | 'ed25519'

async function createSigning(kind: Kind) {
  const pair = generateKeyPairSync('ed25519')
  const created = await create({ kind, ...(kind === 'ed25519' ? { publicKey: raw(pair.publicKey) } : {}) })
  const token = kind === 'ed25519' ? '' : (await redeem(at.client, created.claim)).body.token
  const key = { kind, token, privateKey: pair.privateKey, record: { keyId: created.keyId } } as unknown as SigningPair
  return { ...created, key }
}

/** A key of a kind in the middle of a rotation. */
async function monitored(kind: Kind) {
  const created = await createSigning(kind)
  const { rotationId } = (await trigger(at.client, created.credentialId)).body
  await reached(at.client, rotationId, 'monitoring')
  return { ...created, rotationId }
}

interface Sent {
  readonly signedFor?: string
  readonly created?: number
  readonly nonce?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly signedBody?: object
  readonly api?: ServedApi
}

/** Signs a request as its sender would, and sends it. */
async function send<T>(key: SigningPair, path: string, body: object, { api, headers = {}, ...sent }: Sent = {}) {
  const client = api?.client ?? at.client
  const { signedFor = at.house.config.publicUrl, signedBody = body, ...more } = sent
  const bytes = Buffer.from(JSON.stringify(signedBody))
  const signed = await signMessage(key, { method: 'POST', url: signedFor + path, body: bytes, ...more })
  return client.post<T>(path, JSON.stringify(body), { token: 'none', headers: { ...signed, ...headers } })
}

describe('POST /v1/successor, signed by the old key', () => {
  test('hmac-sha256: hands the new token out, encrypted to the recipient, and nothing in the open', async () => {
    const { key, rotationId } = await monitored('hmac-sha256')
    const open = await send(key, '/v1/successor', {})
    expect(problemOf(open)).toMatchObject({ status: 400, code: 'invalid-request', errors: [{ path: '/recipient' }] })
    const recipient = newRecipient()
    const first = await send<{ jwe: string; keyId: KeyId }>(key, '/v1/successor', { recipient: recipient.jwk })
    expect([first.status, Object.keys(first.body).sort()]).toEqual([200, ['jwe', 'keyId', 'sunsetAt']])
    expect((await at.house.rotation(rotationId)).newKeyId).toBe(first.body.keyId)
    expect(await decrypt(first.body.jwe, recipient)).toMatch(/^kt_prod_/)
    expect((await send(key, '/v1/successor', { recipient: recipient.jwk })).body).toEqual(first.body)
    expect(problemOf(await send(key, '/v1/successor', { recipient: newRecipient().jwk }))).toMatchObject({ code: 'claim-used' })
  })

  test('ed25519: enrols the public half of the next pair, and the same may be sent again', async () => {
    const { key } = await monitored('ed25519')
    expect(problemOf(await send(key, '/v1/successor', {}))).toMatchObject({ status: 400, errors: [{ path: '/publicKey' }] })
    const publicKey = raw(generateKeyPairSync('ed25519').publicKey)
    for (let i = 0; i < 2; i++) {
      const { status, body } = await send<{ keyId: KeyId }>(key, '/v1/successor', { publicKey })
      expect([status, body]).toEqual([200, { keyId: expect.any(String), sunsetAt: expect.any(String) }])
      expect(at.house.gateways.map(({ cache }) => cache.get(body.keyId)?.state)).toEqual(['active'])
    }
    const other = raw(generateKeyPairSync('ed25519').publicKey)
    expect(problemOf(await send(key, '/v1/successor', { publicKey: other }))).toMatchObject({ code: 'claim-used' })
  })

  test('a request counts once, at all processes together', async () => {
    const other = await serveApi(at.house)
    try {
      const { key } = await monitored('hmac-sha256')
      const body = { recipient: newRecipient().jwk }
      const sent = { nonce: 'once' }
      expect((await send(key, '/v1/successor', body, sent)).status).toBe(200)
      for (const api of [undefined, other]) {
        const again = await send(key, '/v1/successor', body, { ...sent, ...(api === undefined ? {} : { api }) })
        expect(problemOf(again)).toMatchObject({ status: 401, code: 'request-replayed' })
      }
    } finally {
      await other.stop()
    }
  })

  test('is refused with another body, for another host, too late, with a wrong key, or beside a bearer; the claim stays good', async () => {
    const { key, rotationId } = await monitored('hmac-sha256')
    const body = { recipient: newRecipient().jwk }
    const soon = Math.floor(Date.now() / 1_000)
    const wrong = { ...key, token: 'kt_prod_wrong' }
    const codes = [
      await send(key, '/v1/successor', body, { signedBody: { recipient: newRecipient().jwk } }),
      await send(key, '/v1/successor', body, { signedFor: 'https://other.example' }),
      await send(key, '/v1/successor', body, { created: soon - 70 }),
      await send(key, '/v1/successor', body, { created: soon + 60 }),
      await send(wrong, '/v1/successor', body),
      await send(key, '/v1/successor', body, { headers: { authorization: 'Bearer x' } }),
      await send(key, '/v1/successor', body, { headers: { 'signature-input': 'nonsense' } }),
    ].map((answer) => problemOf(answer).code)
    expect(codes).toEqual([
      'digest-mismatch',
      'invalid-key',
      'request-stale',
      'request-stale',
      'invalid-key',
      'invalid-key',
      'signature-malformed',
    ])
    expect((await redeem(at.client, await at.house.claimCodeOf(rotationId))).status).toBe(200)
  })

  test('is refused to a key that has leaked', async () => {
    const { key, rotationId } = await monitored('hmac-sha256')
    await at.client.post(`/v1/rotations/${rotationId}/escalate`, { reason: 'leaked' })
    await reached(at.client, rotationId, 'completed')
    // The old key is dead: whoever has it is nobody.
    expect(problemOf(await send(key, '/v1/successor', { recipient: newRecipient().jwk })).code).toBe('invalid-key')
  })
})

test('POST /v1/rotations/{id}/done takes a request that the new key has signed', async () => {
  const { key, rotationId } = await monitored('hmac-sha256')
  const recipient = newRecipient()
  const { body } = await send<{ jwe: string; keyId: KeyId }>(key, '/v1/successor', { recipient: recipient.jwk })
  const newKey = { ...key, token: await decrypt(body.jwe, recipient), record: { keyId: body.keyId } } as unknown as SigningPair
  expect(problemOf(await send(newKey, `/v1/rotations/${rotationId}/done`, {}))).toMatchObject({
    status: 409,
    code: 'not-switched-over',
  })
  expect(problemOf(await send(key, `/v1/rotations/${rotationId}/done`, {}))).toMatchObject({
    status: 403,
    code: 'new-key-required',
  })
})

test.each<Kind>(['hmac-sha256', 'ed25519'])(
  'POST /v1/sessions trades a key of %s for the request that it has signed',
  async (kind) => {
    const { key, keyId } = await createSigning(kind)
    const wanted = { scopes: ['trade:orders'], lifetime: '5m' }
    const sent = { nonce: 'once' }
    expect(problemOf(await send(key, '/v1/sessions', wanted, { signedBody: { lifetime: '5m' } })).code).toBe('digest-mismatch')
    const { status, body } = await send<{ token: string }>(key, '/v1/sessions', wanted, sent)
    expect([status, body]).toEqual([201, expect.objectContaining({ keyId, scopes: ['trade:orders'] })])
    expect(decodeJwt(body.token)).toMatchObject({ key_id: keyId, scope: 'trade:orders' })
    expect(problemOf(await send(key, '/v1/sessions', wanted, sent)).code).toBe('request-replayed')
    const usage = await at.house.db.query('select accepted from key_usage where key_id = $1', [keyId])
    expect(usage).toEqual([{ accepted: 1 }])
    if (kind === 'ed25519') return
    expect(problemOf(await at.client.post('/v1/sessions', wanted, { token: key.token })).code).toBe('invalid-key')
  },
)
