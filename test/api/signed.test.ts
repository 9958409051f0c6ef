/** Keys that sign requests, shown to the control plane itself. */
import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import type { KeyId, ProblemDocument } from '@keyturn/contract'
import { decodeJwt } from 'jose'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type SigningPair, signMessage } from '../gateway/signatures/signing.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { eventually } from '../support/house.ts'
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

describe.each(['hmac-sha256', 'ed25519'] as const)(
  '%s: what a key may know of itself and its client, asked with a signature',
  (kind) => {
    const get = async (
      key: SigningPair,
      path: string,
      { signedFor, headers = {}, ...sent }: Omit<Sent, 'signedBody' | 'api'> = {},
    ) => {
      const signed = await signMessage(key, { url: (signedFor ?? at.house.config.publicUrl) + path, ...sent })
      return at.client.get<object>(path, { token: 'none', headers: { ...signed, ...headers } })
    }

    test('GET /v1/keys/self answers as it does to bearers, and each request counts once', async () => {
      const { key, keyId, credentialId, rotationId } = await monitored(kind)
      const nonce = `once-${keyId}`
      const { status, body } = await get(key, '/v1/keys/self', { nonce })
      expect([status, body]).toEqual([
        200,
        {
          keyId,
          credentialId,
          environment: 'prod',
          version: 1,
          standing: 'current',
          successor: 2,
          sunsetAt: expect.any(String),
          rotationId,
        },
      ])
      expect(problemOf(await get(key, '/v1/keys/self', { nonce }))).toMatchObject({ status: 401, code: 'request-replayed' })
    })

    test('GET /v1/keys/self is refused with another path, for another host, too late, beside a bearer, and when the key is dead', async () => {
      const { key, rotationId } = await monitored(kind)
      const codes = [
        await get(key, '/v1/keys/self', { signedFor: 'https://other.example' }),
        await get(key, '/v1/keys/self', { signedFor: `${at.house.config.publicUrl}/x` }),
        await get(key, '/v1/keys/self', { created: Math.floor(Date.now() / 1_000) - 70 }),
        await get(key, '/v1/keys/self', { headers: { authorization: 'Bearer x' } }),
        await get({ ...key, record: { ...key.record, keyId: 'nobody0123456789' as KeyId } }, '/v1/keys/self'),
        await get(key, '/v1/keys/self', { headers: { 'signature-input': 'nonsense' } }),
      ].map((answer) => problemOf(answer).code)
      expect(codes).toEqual(['invalid-key', 'invalid-key', 'request-stale', 'invalid-key', 'invalid-key', 'signature-malformed'])
      await at.client.post(`/v1/rotations/${rotationId}/escalate`, { reason: 'leaked' })
      await reached(at.client, rotationId, 'completed')
      const dead = await get(key, '/v1/keys/self')
      const unknown = await at.client.get('/v1/keys/self', { token: 'kt_prod_none' })
      expect(problemOf(dead)).toMatchObject({ status: 401, code: 'invalid-key', title: problemOf(unknown).title })
    })

    test('GET /v1/feed is opened by it, and a stream goes on with the one signature that has opened it', async () => {
      const { key, rotationId } = await monitored(kind)
      const path = '/v1/feed?after=0&wait=1s'
      expect((await get(key, path)).body).toMatchObject({
        events: [{ type: 'keyturn.rotation.introduced', data: { rotationId } }],
      })
      const signed = await signMessage(key, { url: `${at.house.config.publicUrl}/v1/feed` })
      const leaving = new AbortController()
      onTestFinished(() => leaving.abort())
      const headers = { ...signed, accept: 'text/event-stream' }
      const response = await fetch(`${at.client.url}/v1/feed`, { headers, signal: leaving.signal })
      let said = ''
      const read = async () => {
        for await (const text of response.body?.pipeThrough(new TextDecoderStream()) ?? []) said += text
      }
      read().catch(() => undefined)
      await eventually(() => said.includes('keyturn.rotation.introduced'), 'what was told before')
      await at.client.post(`/v1/rotations/${rotationId}/roll-back`, { reason: 'on purpose' })
      await eventually(() => said.includes('keyturn.rotation.rolled-back'), 'what is told then')
    })
  },
)

test('a token that signs is no bearer to /v1/keys/self and /v1/feed', async () => {
  const { key } = await monitored('hmac-sha256')
  for (const path of ['/v1/keys/self', '/v1/feed'])
    expect((await at.client.refusal('GET', path, { token: key.token })).code).toBe('invalid-key')
})
