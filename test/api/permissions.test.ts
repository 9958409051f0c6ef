import type { KeyId } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { atOnce } from '../support/at-once.ts'
import { apiHouse, claimedCredential, newClient, reached, redeem, refusedWithoutTrace, trigger } from './support.ts'

const at = apiHouse({ gateways: 2 })

interface Changed {
  readonly scopes: readonly string[]
  readonly allow?: object
  readonly receipts: readonly { readonly keyId: string; readonly event: string; readonly unconfirmed: readonly string[] }[]
  readonly propagated: boolean
}

const change = async (credentialId: string, body: object) =>
  (await at.client.request<Changed>('PATCH', `/v1/credentials/${credentialId}`, { body })).body

/** What every gateway says of a request. */
const asked = (token: string, { address = '192.0.2.1', method = 'GET', scopes = [] as string[] } = {}) =>
  at.house.gateways.map((gateway) => {
    const answer = atOnce(gateway.authenticate({ headers: { 'x-api-key': token }, address, method }, scopes))
    return answer.accepted ? 'accepted' : answer.problem.code
  })
const both = (outcome: string) => [outcome, outcome]

describe('bad input', () => {
  test.each([
    ['nothing to change', { reason: 'boredom' }, 'scopes, allow'],
    ['an address that is none', { allow: { addresses: ['192.0.2.0/33'] } }, '/allow/addresses/0'],
    ['a host name', { allow: { addresses: ['192.0.2.1', 'office.example'] } }, '/allow/addresses/1'],
    ['an empty list, which would shut everybody out', { allow: { addresses: [] } }, '/allow/addresses'],
    ['a method that is none', { allow: { methods: ['FETCH'] } }, '/allow/methods/0'],
    ['a list of another kind', { allow: { countries: ['DE'] } }, '/allow'],
    ['an order of another kind', { allow: { sequence: 'strict' } }, '/allow/sequence'],
    ['numbers of requests that show a token', { allow: { sequence: 'required' } }, '/allow/sequence'],
    ['a scope that is none', { scopes: ['Orders Write'] }, '/scopes/0'],
  ])('%s', async (_, body, where) => {
    const { credentialId } = await claimedCredential(at.client)
    const path = `/v1/credentials/${credentialId}`
    const problem = await refusedWithoutTrace(at, credentialId, ['PATCH', path, { body }])
    expect([problem.status, problem.code]).toEqual([400, 'invalid-request'])
    expect(JSON.stringify([problem.detail, problem.errors])).toContain(where)
  })

  test('a credential that is not there', async () => {
    const problem = await at.client.refusal('PATCH', '/v1/credentials/crd_0000000000000000', { body: { scopes: [] } })
    expect([problem.status, problem.code]).toEqual([404, 'unknown-credential'])
  })
})

test('G3: changed scopes and lists reach every gateway with a receipt, are audited once, and go with the next key', async () => {
  const { credentialId, keyId, token } = await claimedCredential(at.client)
  expect(asked(token, { scopes: ['orders:write'] })).toEqual(both('missing-scope'))
  const changed = await change(credentialId, {
    scopes: ['orders:*'],
    allow: { addresses: ['192.0.2.0/24', '2001:db8::/32'], methods: ['GET', 'POST'] },
    reason: 'the office has moved',
  })
  expect(changed).toMatchObject({ scopes: ['orders:*'], propagated: true })
  expect(changed.receipts).toMatchObject([{ keyId, event: 'keyturn.key.updated', unconfirmed: [] }])
  expect(asked(token, { scopes: ['orders:write'], address: '2001:db8::7' })).toEqual(both('accepted'))
  expect(asked(token, { address: '198.51.100.1' })).toEqual(both('address-not-allowed'))
  expect(asked(token, { method: 'DELETE' })).toEqual(both('method-not-allowed-for-key'))
  const allow = { addresses: ['192.0.2.0/24', '2001:db8::/32'], methods: ['GET', 'POST'] }
  expect((await at.client.get(`/v1/credentials/${credentialId}`)).body).toMatchObject({ scopes: ['orders:*'], allow })

  expect(await change(credentialId, { scopes: ['orders:*'] })).toMatchObject({ receipts: [], propagated: true })
  const audit = await at.house.db.query<{ action: string; detail: object }>(
    'select action, detail from audit where subject in ($1, $2) order by seq',
    [credentialId, keyId],
  )
  expect(audit.map(({ action }) => action)).toEqual(['credential.created', 'key.introduced', 'credential.updated', 'key.updated'])
  expect(audit[2]?.detail).toMatchObject({ reason: 'the office has moved', before: { scopes: ['read:prices'], allow: null } })
  await verifyAudit(at.house.db)

  const { rotationId } = (await trigger(at.client, credentialId)).body
  await reached(at.client, rotationId, 'monitoring')
  const successor = (await at.client.post<{ token: string }>('/v1/successor', undefined, { token })).body
  for (const each of [token, successor.token])
    expect(asked(each, { address: '198.51.100.1' })).toEqual(both('address-not-allowed'))
  const old = at.house.gateways.map(({ cache }) => cache.get(keyId))
  for (const key of old)
    expect([key?.sunsetAt, key?.deprecatedAt, key?.successor]).toEqual([expect.any(Number), expect.any(Number), 2])

  // One list goes, the other stays; with both gone there is no restriction. Both keys hear of it, and the old one keeps its sunset.
  const half = await change(credentialId, { allow: { addresses: null } })
  expect([half.allow, half.receipts.length]).toEqual([{ methods: ['GET', 'POST'] }, 2])
  expect(await change(credentialId, { allow: null })).not.toHaveProperty('allow')
  for (const each of [token, successor.token])
    expect(asked(each, { address: '198.51.100.1', method: 'DELETE' })).toEqual(both('accepted'))
  expect(at.house.gateways.map(({ cache }) => cache.get(keyId)?.sunsetAt)).toEqual(old.map((key) => key?.sunsetAt))
})

test('a credential is restricted from its creation on', async () => {
  const input = { name: 'feed', environment: 'prod', scopes: [], allow: { addresses: ['192.0.2.7'] } }
  const { body } = await at.client.post<{ claim: string }>(`/v1/clients/${await newClient(at.client)}/credentials`, input)
  const { token } = (await redeem(at.client, body.claim)).body
  expect(asked(token, { address: '192.0.2.7' })).toEqual(both('accepted'))
  expect(asked(token, { address: '192.0.2.8' })).toEqual(both('address-not-allowed'))
})

test('requests of keys that sign have to be numbered where that is said, from the creation on or by a change', async () => {
  const path = `/v1/clients/${await newClient(at.client)}/credentials`
  const input = { name: 'orders', environment: 'prod', scopes: [], kind: 'hmac-sha256', allow: { sequence: 'required' } }
  const { credentialId, keyId } = (await at.client.post<{ credentialId: string; keyId: KeyId }>(path, input)).body
  const required = () => at.house.gateways.map(({ cache }) => cache.get(keyId)?.restriction?.requiresSequence)
  expect(required()).toEqual([true, true])
  expect(await change(credentialId, { allow: { sequence: null } })).not.toHaveProperty('allow')
  expect(required()).toEqual([undefined, undefined])
  expect(await change(credentialId, { allow: { sequence: 'required' } })).toMatchObject({ allow: { sequence: 'required' } })
  expect(required()).toEqual([true, true])
  const refused = await at.client.refusal('POST', path, { body: { ...input, kind: 'bearer' } })
  expect([refused.status, refused.code]).toEqual([400, 'invalid-request'])
  expect(refused.detail).toBe('Requests that show a token can not be numbered: only signed ones are.')
})
