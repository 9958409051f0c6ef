/** Each bad request has its own clear answer, and leaves nothing behind. */
import { type CredentialId, newToken, type ProblemCode, type ProblemDocument } from '@keyturn/contract'
import { beforeAll, describe, expect, test } from 'vitest'
import type { RequestOptions } from '../support/api.ts'
import { testToken } from '../support/house.ts'
import { apiHouse, newClient, newCredential, refusedWithoutTrace } from './support.ts'

// Nobody works on workflows here: what slipped through would show as one that was started.
const at = apiHouse({ gateways: 0, worker: false, collector: false })
let clientId = ''
let credentialId = '' as CredentialId
beforeAll(async () => {
  clientId = await newClient(at.client)
  credentialId = (await newCredential(at.client, clientId)).credentialId
})

const refused = (method: string, path: string, options: RequestOptions = {}) =>
  refusedWithoutTrace(at, credentialId, [method, path, options])

const NOWHERE = 'rot_0000000000000000'

describe('what is not there', () => {
  test.each<[method: string, path: string, code: ProblemCode, body?: object]>([
    ['GET', '/v1/clients/cli_0000000000000000', 'unknown-client'],
    ['POST', '/v1/clients/cli_0000000000000000/credentials', 'unknown-client', { name: 'a', environment: 'dev', scopes: [] }],
    ['GET', '/v1/credentials/crd_0000000000000000', 'unknown-credential'],
    ['POST', '/v1/credentials/crd_0000000000000000/rotations', 'unknown-credential', { trigger: 'manual', reason: 'test' }],
    ['GET', `/v1/rotations/${NOWHERE}`, 'unknown-rotation'],
    ['GET', `/v1/rotations/${NOWHERE}/events`, 'unknown-rotation'],
    ['GET', `/v1/rotations?before=${NOWHERE}`, 'unknown-rotation'],
    ...['approve', 'hold', 'resume', 'extend', 'deactivate-now', 'roll-back', 'escalate', 'claim'].map(
      (order): [string, string, ProblemCode, object] => [
        'POST',
        `/v1/rotations/${NOWHERE}/${order}`,
        'unknown-rotation',
        { reason: 'test' },
      ],
    ),
    ['POST', '/v1/gateways/gw-nowhere/gone', 'unknown-gateway', { reason: 'test' }],
    ['POST', `/v1/claims/${'a'.repeat(43)}`, 'unknown-claim'],
    ['POST', '/v1/claims/half-a-claim', 'unknown-claim'],
    ['GET', '/v1', 'not-found'],
    ['GET', '/v2/clients', 'not-found'],
    ['GET', '/v1/clients/', 'invalid-request'],
    ['GET', '/v1/rotations/%zz', 'not-found'],
    ['GET', `/v1/rotations/${'x'.repeat(300)}`, 'not-found'],
    ['GET', '/v1/rotations/..%2f..%2fetc%2fpasswd', 'invalid-request'],
    ['GET', '/v1/clients/%00', 'invalid-request'],
  ])('%s %s: %s', async (method, path, code, body) => {
    const { detail, ...problem } = await refused(method, path, body === undefined ? {} : { body })
    expect(problem).toMatchObject({ type: `urn:keyturn:problem:${code}`, code })
    // It says what to do, or which one is not there.
    if (code !== 'invalid-request') expect(detail).toMatch(/.{20}/)
  })

  test.each([
    ['PUT', '/v1/clients', 'POST'],
    ['DELETE', `/v1/rotations/${NOWHERE}`, 'GET, HEAD'],
    ['GET', `/v1/rotations/${NOWHERE}/approve`, 'POST'],
    ['PATCH', '/openapi.json', 'GET, HEAD'],
  ])('%s %s: a path that has other methods says which', async (method, path, allowed) => {
    const { status, headers, body } = await at.client.request<ProblemDocument>(method, path)
    expect([status, headers.get('allow'), body.code]).toEqual([405, allowed, 'method-not-allowed'])
    expect(body.detail).toBe(`There is no ${method} here, but: ${allowed}.`)
  })
})

describe('who is asking', () => {
  test.each<[string, Record<string, string>]>([
    ['no token', {}],
    ['another token', { authorization: `Bearer ${'x'.repeat(32)}` }],
    ['an empty token', { authorization: 'Bearer ' }],
    ['another scheme', { authorization: `Basic ${Buffer.from('operator:secret').toString('base64')}` }],
    ['a client’s key', { authorization: `Bearer ${testToken()}` }],
  ])('G5: %s: 401 before anything is read of the body, and nothing is repeated', async (_, headers) => {
    for (const [method, path] of [
      ['POST', '/v1/clients'],
      ['GET', '/v1/audit'],
      ['POST', `/v1/credentials/${credentialId}/rotations`],
      ['GET', `/v1/rotations/${NOWHERE}/events`],
    ] as const) {
      const options = { token: 'none', headers, ...(method === 'POST' ? { body: '{ not JSON' } : {}) } as const
      const problem = await refused(method, path, options)
      expect(problem).toMatchObject({
        status: 401,
        code: 'operator-token-required',
        detail: expect.stringMatching(/operator token/),
      })
      for (const shown of Object.values(headers)) expect(JSON.stringify(problem)).not.toContain(shown.split(' ')[1] || '\n')
    }
  })

  test('the token with something after it, or without its last character, is another one; the scheme’s case does not matter', async () => {
    const { operatorToken } = at.house.config
    for (const token of [`${operatorToken}x`, operatorToken.slice(0, -1), operatorToken.toUpperCase()])
      expect(await refused('GET', '/v1/audit', { token })).toMatchObject({ code: 'operator-token-required' })
    const answer = await at.client.get('/v1/audit', { token: 'none', headers: { authorization: `bearer ${operatorToken}` } })
    expect(answer.status).toBe(200)
    const challenge = await at.client.get('/v1/audit', { token: 'none' })
    expect(challenge.headers.get('www-authenticate')).toBe('Bearer realm="keyturn"')
  })

  test.each<[string, RequestOptions, ProblemCode]>([
    ['no key', { token: 'none' }, 'missing-key'],
    ['a key with a typing error', { token: `${testToken().slice(0, -1)}!` }, 'invalid-key'],
    [
      'a key that was never issued',
      { token: newToken({ brand: 'kt', environment: 'prod', keyId: 'a'.repeat(16) as never }) },
      'invalid-key',
    ],
    ['the operators’ token', {}, 'invalid-key'],
  ])('a successor for %s: %s', async (_, options, code) => {
    const problem = await refused('POST', '/v1/successor', options)
    expect(problem).toMatchObject({ status: 401, code })
    expect(JSON.stringify(problem)).not.toContain(
      options.token === 'none' ? '\n' : (options.token ?? at.house.config.operatorToken),
    )
  })
})

describe('what is asked for in a query', () => {
  test.each([
    ['/v1/rotations?stage=finished', '/stage', /must be one of: requested, /],
    ['/v1/rotations?limit=0', '/limit', />= 1/],
    ['/v1/rotations?limit=201', '/limit', /<= 200/],
    ['/v1/rotations?limit=many', '/limit', /must be integer/],
    ['/v1/rotations?limit=1.5', '/limit', /must be integer/],
    ['/v1/rotations?client=acme', '/client', /expected a client id: cli_…/],
    ['/v1/rotations?client=cli_0000000000000000&client=cli_0000000000000001', '/client', /must be string/],
    ['/v1/rotations?state=held', '/state', /is not a field here/],
    ['/v1/rotations?before=1', '/before', /expected a rotation id: rot_…/],
    ['/v1/audit?after=-1', '/after', />= 0/],
    ['/v1/audit?limit=1001', '/limit', /<= 1000/],
    ['/v1/audit?subject=%00', '/subject', /expected the id of whatever was changed/],
    ['/v1/audit?subject=', '/subject', /expected the id of whatever was changed/],
    ['/v1/clients/acme', '/id', /expected a client id: cli_…/],
    [`/v1/rotations/${NOWHERE}0`, '/id', /expected a rotation id: rot_…/],
    ['/v1/credentials/rot_0000000000000000', '/id', /expected a credential id: crd_…/],
  ])('%s names %s', async (path, field, message) => {
    const { code, errors } = await refused('GET', path)
    expect([code, errors]).toEqual(['invalid-request', [{ path: field, message: expect.stringMatching(message) }]])
  })
})
