/** Sessions from the outside: a key is traded at the control plane, used at a gateway of its own process, and dies with its key. */
import { JWKS_PATH, type KeyId, newToken, randomBase62 } from '@keyturn/contract'
import { decodeJwt, decodeProtectedHeader } from 'jose'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { appendAudit } from '../../registry/audit.ts'
import { eventually } from '../support/house.ts'
import { startGatewayProcess, startUpstream } from '../support/processes.ts'
import { apiHouse, type CreatedBody, claimedCredential, newClient, redeem } from './support.ts'

const DAY = 86_400_000
const HOUR = 3_600_000
let passedMs = 0
const at = apiHouse({}, async () => ({ clock: () => new Date(Date.now() + passedMs) }))

beforeEach(async () => {
  passedMs = 0
  await at.house.db.query('delete from signing_keys')
})

interface SessionBody {
  readonly token: string
  readonly keyId: KeyId
  readonly scopes: readonly string[]
  readonly expiresAt: string
}
interface KeySet {
  readonly keys: readonly { readonly kid: string }[]
}

const trade = (token: string, body: object = {}) => at.client.post<SessionBody>('/v1/sessions', body, { token })
const published = async (): Promise<string[]> => {
  const { body, headers } = await at.client.get<KeySet>(JWKS_PATH, { token: 'none' })
  expect(headers.get('cache-control')).toBe('public, max-age=60')
  return body.keys.map(({ kid }) => kid)
}
const signedBy = async (token: string): Promise<string> => decodeProtectedHeader((await trade(token)).body.token).kid ?? ''

async function credentialWith(scopes: string[]): Promise<CreatedBody & { token: string }> {
  const input = { name: `feed-${randomBase62(6)}`, environment: 'prod', scopes }
  const { body } = await at.client.post<CreatedBody>(`/v1/clients/${await newClient(at.client)}/credentials`, input)
  return { ...body, token: (await redeem(at.client, body.claim)).body.token }
}

test('G3: trade, call through a gateway, kill the key: the session is refused at once', async () => {
  const credential = await credentialWith(['read:*', 'trade:orders'])
  const { status, body, headers } = await trade(credential.token, { scopes: ['read:prices'], lifetime: '5m' })
  expect([status, headers.get('cache-control')]).toEqual([201, 'no-store'])
  expect(body).toMatchObject({ keyId: credential.keyId, scopes: ['read:prices'] })
  const { exp = 0, iat = 0, ...claims } = decodeJwt(body.token)
  expect([exp - iat, new Date(exp * 1_000).toISOString()]).toEqual([300, body.expiresAt])
  expect(claims).toMatchObject({ iss: 'keyturn', aud: 'keyturn/prod', key_id: credential.keyId, scope: 'read:prices' })

  const { url, server } = await startUpstream()
  onTestFinished(() => void server.close())
  const gateway = await startGatewayProcess(at.house, 'gw-sessions', {
    KEYTURN_GATEWAY_UPSTREAM: url,
    KEYTURN_JWKS_URL: at.client.url + JWKS_PATH,
  })
  onTestFinished(() => gateway.stop())
  await eventually(async () => (await gateway.call(body.token)) === 200, 'the gateway to have fetched the keys')
  expect(await gateway.call(credential.token)).toBe(200)

  const emergency = { trigger: 'emergency', reason: 'leaked' }
  await at.client.post(`/v1/credentials/${credential.credentialId}/rotations`, emergency)
  // As soon as the gateway refuses the key, it refuses the session.
  await eventually(async () => (await gateway.call(credential.token)) === 401, 'the end of the key', 60_000)
  expect(await gateway.call(body.token)).toBe(401)
  expect((await trade(credential.token)).status).toBe(401)
  expect(gateway.output()).not.toContain(body.token.slice(0, 60))
})

test('bad input: each is refused with what to do, and leaves nothing behind', async () => {
  const { token, keyId } = await claimedCredential(at.client)
  const traces = () =>
    at.house.db.query<{ used: number; changes: number; keys: number }>(
      `select (select accepted from key_usage where key_id = $1) as used, (select count(*) from audit where subject = $1) as changes,
         (select count(*) from signing_keys) as keys`,
      [keyId],
    )
  const session = (await trade(token)).body.token
  const unknown = newToken({ brand: 'kt', environment: 'prod', keyId: randomBase62(16) as KeyId })
  const typo = `${token.slice(0, -1)}${token.endsWith('0') ? '1' : '0'}`
  const before = await traces()
  for (const [options, code, says] of [
    [{ token: 'none' }, 'missing-key', 'Authorization: Bearer'],
    [{ token: unknown }, 'invalid-key', 'a key that is accepted'],
    [{ token: typo }, 'invalid-key', 'as a whole'],
    [{ token: session }, 'invalid-key', 'send the key itself'],
    [{ token, body: { scopes: ['read:*'] } }, 'scope-exceeded', 'can not do read:*'],
    [{ token, body: { scopes: ['read:prices', 'trade:orders'] } }, 'scope-exceeded', 'can not do trade:orders'],
    [{ token, body: { scopes: [] } }, 'invalid-request', undefined],
    [{ token, body: { lifetime: '61m' } }, 'invalid-duration', '1s to 1h'],
    [{ token, body: { lifetime: '0s' } }, 'invalid-duration', 'longer than zero'],
    [{ token, body: { lifetime: 'soon' } }, 'invalid-duration', 'lifetime'],
    [{ token, body: { audience: 'x' } }, 'invalid-request', undefined],
  ] as const) {
    const problem = await at.client.refusal('POST', '/v1/sessions', options)
    expect([options, problem.code]).toEqual([options, code])
    if (says !== undefined) expect(problem.detail).toContain(says)
  }
  // A right key was used, also where it asked for more than it may: twice.
  expect(await traces()).toEqual(before.map((trace) => ({ ...trace, used: trace.used + 2 })))
  await at.house.db.tx(async (tx) => {
    await appendAudit(tx, { at: new Date(), actor: 'test', action: 'key.suspended', subject: keyId, revision: 2, detail: {} })
    await tx.query(`update keys set state = 'suspended', event = 'keyturn.key.suspended', revision = 2 where key_id = $1`, [
      keyId,
    ])
  })
  const suspended = await traces()
  const { code } = await at.client.refusal('POST', '/v1/sessions', { token })
  expect([code, await traces()]).toEqual(['invalid-key', suspended])
})

test('a session ends with its key at the latest', async () => {
  const { token, keyId } = await claimedCredential(at.client)
  const expiresAt = new Date(Math.ceil(Date.now() / 1_000) * 1_000 + 90_000)
  await at.house.db.tx(async (tx) => {
    await appendAudit(tx, { at: new Date(), actor: 'test', action: 'key.updated', subject: keyId, revision: 2, detail: {} })
    await tx.query('update keys set expires_at = $2, revision = 2 where key_id = $1', [keyId, expiresAt])
  })
  const { body } = await trade(token, { lifetime: '1h' })
  expect(body.expiresAt).toBe(expiresAt.toISOString())
  expect(decodeJwt(body.token).exp).toBe(expiresAt.getTime() / 1_000)
})

test('G2: to trade a key is to use it', async () => {
  const { token, keyId } = await claimedCredential(at.client)
  const before = Date.now()
  await trade(token)
  const [usage] = await at.house.db.query<{ accepted: number; last_accepted_at: Date }>(
    'select accepted, last_accepted_at from key_usage where key_id = $1',
    [keyId],
  )
  expect(usage?.accepted).toBe(1)
  expect(usage?.last_accepted_at.getTime()).toBeGreaterThanOrEqual(before)
})

test('signing keys rotate by themselves: published before they sign, until the last token is dead; G5: sealed, then wiped', async () => {
  const { token } = await claimedCredential(at.client)
  const [{ before } = { before: 0 }] = await at.house.db.query<{ before: number }>('select seq as before from audit_head')
  const [first = '', ...none] = await published()
  expect(none).toEqual([])
  expect(await signedBy(token)).toBe(first)
  passedMs = 30 * DAY - HOUR + 60_000
  const [, second = ''] = await published()
  expect(await signedBy(token)).toBe(first)
  passedMs = 30 * DAY + 60_000
  expect(await signedBy(token)).toBe(second)
  expect(await published()).toEqual([first, second])
  const privateHalf = async (kid: string) =>
    (await at.house.db.query<{ ciphertext: Buffer | null }>('select ciphertext from signing_keys where kid = $1', [kid]))[0]
      ?.ciphertext
  passedMs += 10 * 60_000
  expect(await published()).toEqual([first, second])
  expect([await privateHalf(first), (await privateHalf(second))?.length]).toEqual([null, 43 + 16])
  passedMs += HOUR
  expect(await published()).toEqual([second])

  const asked = await at.client.post<{ kid: string; signsFrom: string }>('/v1/signing-keys/rotate', { reason: 'yearly' })
  expect(Date.parse(asked.body.signsFrom) - Date.now() - passedMs).toBeGreaterThan(9 * 60_000)
  expect(await published()).toEqual([second, asked.body.kid])
  expect(await signedBy(token)).toBe(second)
  passedMs += 11 * 60_000
  expect(await signedBy(token)).toBe(asked.body.kid)

  const emergency = await at.client.post<{ kid: string }>('/v1/signing-keys/rotate', { reason: 'stolen', compromised: true })
  expect(await published()).toEqual([emergency.body.kid])
  expect(await signedBy(token)).toBe(emergency.body.kid)
  const listed = await at.client.get<{ signingKeys: { kid: string }[] }>('/v1/signing-keys')
  expect(listed.body.signingKeys.map(({ kid }) => kid)).toEqual([emergency.body.kid])
  const actions = await at.house.db.query<{ action: string }>(
    `select action from audit where action like 'signing-key%' and seq > $1 order by seq`,
    [before],
  )
  expect(actions.map(({ action }) => action.replace('signing-key.', ''))).toEqual([
    ...['created', 'created', 'created', 'rotated', 'compromised', 'created'],
  ])
})

test('processes that ask at one moment find one first key', async () => {
  const sets = await Promise.all(Array.from({ length: 16 }, () => published()))
  expect(new Set(sets.flat()).size).toBe(1)
})
