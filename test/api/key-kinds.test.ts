import { generateKeyPairSync } from 'node:crypto'
import type { KeyId, KeyKind, ProblemDocument } from '@keyturn/contract'
import pino from 'pino'
import { describe, expect, onTestFinished, test } from 'vitest'
import { eventually } from '../support/house.ts'
import { newPublicKey } from '../support/shown.ts'
import { alertsOf } from '../support/topics.ts'
import { apiHouse, type CreatedBody, type HandedOutBody, newClient, reached, redeem, trigger } from './support.ts'

const lines: string[] = []
const at = apiHouse({}, async () => ({ log: pino({ level: 'trace' }, { write: (line: string) => lines.push(line) }) }))

const problemOf = ({ body }: { body: unknown }): ProblemDocument => body as ProblemDocument
const create = async (more: object) =>
  at.client.post<CreatedBody & { kind: KeyKind }>(`/v1/clients/${await newClient(at.client)}/credentials`, {
    name: 'feed',
    environment: 'prod',
    scopes: ['trade:orders'],
    ...more,
  })
const enrol = (claim: string, publicKey: string) =>
  at.client.post<HandedOutBody>(`/v1/claims/${claim}`, { publicKey }, { token: 'none' })
const stateAtGateway = (keyId: KeyId) => at.house.gateways.map(({ cache }) => cache.get(keyId)?.state)
const show = async (credentialId: string) =>
  (await at.client.get<{ kind: string; keys: { state: string; publicKey?: string }[] }>(`/v1/credentials/${credentialId}`)).body

describe('hmac-sha256', () => {
  test('the claim hands out the token; it is no bearer, anywhere', async () => {
    const { status, body } = await create({ kind: 'hmac-sha256' })
    expect([status, body.kind, body.propagated]).toEqual([201, 'hmac-sha256', true])
    expect(await show(body.credentialId)).toMatchObject({ kind: 'hmac-sha256', keys: [{ state: 'active' }] })
    const { token } = (await redeem(at.client, body.claim)).body
    expect(at.house.verdicts(token)).toEqual([false])
    expect(problemOf(await at.client.post('/v1/sessions', undefined, { token })).code).toBe('invalid-key')
    expect(problemOf(await redeem(at.client, body.claim)).code).toBe('claim-used')
  })

  test('who shows it to fetch the successor is told of the claim, and that the token is exposed now', async () => {
    const { body } = await create({ kind: 'hmac-sha256' })
    const { token } = (await redeem(at.client, body.claim)).body
    const { rotationId } = (await trigger(at.client, body.credentialId)).body
    await reached(at.client, rotationId, 'monitoring')
    const refused = await at.client.post('/v1/successor', undefined, { token })
    expect(problemOf(refused)).toMatchObject({ status: 403, code: 'successor-refused' })
    expect(problemOf(refused).detail).toMatch(/sign this one with it, or use a claim, .* sent in the open now/)
    const claimed = await redeem(at.client, await at.house.claimCodeOf(rotationId))
    expect([claimed.status, claimed.body.token]).toEqual([200, expect.stringMatching(/^kt_prod_/)])
  })
})

describe('ed25519', () => {
  test('is enrolled at once where the public key comes with the credential, in each form; there is no claim', async () => {
    const { publicKey } = generateKeyPairSync('ed25519')
    const pem = String(publicKey.export({ type: 'spki', format: 'pem' }))
    const { status, body } = await create({ kind: 'ed25519', publicKey: pem })
    expect([status, body.propagated]).toEqual([201, true])
    for (const name of ['claim', 'claimUrl', 'claimExpiresAt']) expect(body).not.toHaveProperty(name)
    const x = publicKey.export({ format: 'jwk' }).x ?? ''
    const raw = Buffer.from(x, 'base64url').toString('base64')
    expect(await show(body.credentialId)).toMatchObject({ kind: 'ed25519', keys: [{ state: 'active', publicKey: raw }] })
    expect(stateAtGateway(body.keyId)).toEqual(['active'])
    for (const text of [pem, x, raw]) {
      const again = await create({ kind: 'ed25519', publicKey: text })
      expect(problemOf(again)).toMatchObject({ status: 409, code: 'public-key-taken' })
    }
  })

  test('is enrolled with the claim: the answer comes when every gateway accepts it, and may be had again', async () => {
    const { body } = await create({ kind: 'ed25519' })
    expect((await show(body.credentialId)).keys).toEqual([expect.objectContaining({ state: 'pre-activation' })])
    expect(stateAtGateway(body.keyId)).toEqual(['pre-activation'])
    const missing = await redeem(at.client, body.claim)
    expect(problemOf(missing)).toMatchObject({ status: 400, code: 'invalid-request', errors: [{ path: '/publicKey' }] })
    const publicKey = newPublicKey()
    for (let i = 0; i < 2; i++) {
      const enrolled = await enrol(body.claim, publicKey)
      expect([enrolled.status, enrolled.body, enrolled.headers.get('cache-control')]).toEqual([
        200,
        { keyId: body.keyId },
        'no-store',
      ])
      expect(stateAtGateway(body.keyId)).toEqual(['active'])
    }
  })

  test('G10: another public key with a used claim is refused, and an alert is raised', async () => {
    const { body } = await create({ kind: 'ed25519' })
    await enrol(body.claim, newPublicKey())
    expect(problemOf(await enrol(body.claim, newPublicKey()))).toMatchObject({ status: 410, code: 'claim-used' })
    await eventually(
      async () => (await alertsOf(at.house.config.topics, body.credentialId)).some(({ kind }) => kind === 'second-claim'),
      'an alert of the second claim',
    )
  })

  test('G1: while a gateway is silent the answer is 503, and the same again is 200 once that is declared gone', async () => {
    const { body } = await create({ kind: 'ed25519' })
    await at.house.announceSilentGateway('gw-silent')
    const gone = () => at.client.post('/v1/gateways/gw-silent/gone', { reason: 'it never was' })
    onTestFinished(async () => void (await gone()))
    const publicKey = newPublicKey()
    const waiting = await enrol(body.claim, publicKey)
    expect(problemOf(waiting)).toMatchObject({ status: 503, code: 'not-everywhere-yet', detail: /send the same again/ })
    expect(waiting.headers.get('retry-after')).not.toBeNull()
    await gone()
    expect((await enrol(body.claim, publicKey)).body).toEqual({ keyId: body.keyId })
  })

  test('G1: no order switches the old key off before the new one is enrolled', async () => {
    const { body } = await create({ kind: 'ed25519', publicKey: newPublicKey() })
    const { rotationId } = (await trigger(at.client, body.credentialId)).body
    const { evidence } = await reached(at.client, rotationId, 'monitoring')
    expect(evidence).toMatchObject({ awaitsEnrolment: true })
    const refused = await at.client.post(`/v1/rotations/${rotationId}/deactivate-now`, { reason: 'now' })
    expect(problemOf(refused)).toMatchObject({ status: 409, code: 'wrong-stage', detail: /has not enrolled its new key/ })
    const enrolled = await enrol(await at.house.claimCodeOf(rotationId), newPublicKey())
    expect(enrolled.body).toEqual({ keyId: expect.any(String), sunsetAt: expect.any(String) })
    expect((await at.client.post(`/v1/rotations/${rotationId}/deactivate-now`, { reason: 'now' })).status).toBe(200)
    await reached(at.client, rotationId, 'completed')
  })
})

describe('bad input', () => {
  const PRIVATE = String(generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }))

  test.each([
    ['of a kind that there is not', { kind: 'rsa' }, '/kind', /./],
    ['with half a public key', { kind: 'ed25519', publicKey: 'abc' }, '/publicKey', /32 bytes/],
    ['with a point of small order', { kind: 'ed25519', publicKey: `${'A'.repeat(43)}=` }, '/publicKey', /no point of the curve/],
    ['with a private key', { kind: 'ed25519', publicKey: PRIVATE }, '/publicKey', /is a private key: it never leaves the client/],
    ['of HMAC with a public key', { kind: 'hmac-sha256', publicKey: newPublicKey() }, '/publicKey', /ed25519 alone/],
    ['that is a bearer with a public key', { publicKey: newPublicKey() }, '/publicKey', /ed25519 alone/],
  ])('a credential %s', async (_, more, path, message) => {
    const problem = problemOf(await create(more))
    expect(problem).toMatchObject({ status: 400, code: 'invalid-request' })
    expect(problem.errors).toContainEqual({ path, message: expect.stringMatching(message) })
  })

  test('a claim: a bad public key, one that another key has, and one where none belongs leave it open', async () => {
    const publicKey = newPublicKey()
    await create({ kind: 'ed25519', publicKey })
    const { claim } = (await create({ kind: 'ed25519' })).body
    expect(problemOf(await enrol(claim, PRIVATE))).toMatchObject({ status: 400, detail: /never leaves the client/ })
    expect(problemOf(await enrol(claim, publicKey))).toMatchObject({ status: 409, code: 'public-key-taken' })
    expect((await enrol(claim, newPublicKey())).status).toBe(200)
    const bearer = (await create({})).body
    expect(problemOf(await enrol(bearer.claim, newPublicKey()))).toMatchObject({ status: 400, detail: /send no public key/ })
    expect((await redeem(at.client, bearer.claim)).status).toBe(200)
  })

  test('G5: a private key that was sent by mistake is in no answer, and in no log', async () => {
    const problem = await create({ kind: 'ed25519', publicKey: PRIVATE })
    const secret = PRIVATE.split('\n')[1] ?? 'none'
    expect(JSON.stringify(problem.body)).not.toContain(secret)
    expect(lines.join('')).not.toContain(secret)
  })
})
