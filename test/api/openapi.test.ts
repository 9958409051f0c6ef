import { Validator } from '@seriousme/openapi-schema-validator'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ServedApi, serveApi } from '../support/api.ts'
import type { House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import type { OpenApiDocument, OpenApiOperation } from '../support/openapi.ts'

/** DESIGN.md, "HTTP, control plane", as far as it is built. */
const ROUTES = [
  'POST /v1/clients',
  'GET /v1/clients/{id}',
  'PATCH /v1/clients/{id}',
  'PUT /v1/clients/{id}',
  'POST /v1/clients/{id}/credentials',
  'GET /v1/credentials',
  'GET /v1/credentials/{id}',
  'PATCH /v1/credentials/{id}',
  'POST /v1/credentials/{id}/rotations',
  'GET /v1/rotations',
  'GET /v1/rotations/{id}',
  ...['approve', 'hold', 'resume', 'extend', 'deactivate-now', 'roll-back', 'escalate'].map(
    (o) => `POST /v1/rotations/{id}/${o}`,
  ),
  'POST /v1/rotations/{id}/claim',
  'GET /v1/rotations/{id}/events',
  'GET /v1/rollovers',
  'GET /v1/rollovers/preview',
  'POST /v1/rollovers',
  'GET /v1/rollovers/{id}',
  ...['pause', 'resume', 'cancel'].map((o) => `POST /v1/rollovers/{id}/${o}`),
  'POST /v1/rotations/{id}/done',
  'GET /claim',
  'GET /claim/{id}',
  'POST /v1/claims/{claim}',
  'POST /v1/successor',
  'GET /v1/keys/self',
  'GET /v1/feed',
  'POST /v1/imports',
  'POST /v1/reseal',
  'POST /v1/sessions',
  'GET /.well-known/jwks.json',
  'GET /.well-known/identity-keys.json',
  'GET /.well-known/openid-configuration',
  'GET /v1/signing-keys',
  'POST /v1/signing-keys/rotate',
  'GET /v1/gateways',
  'POST /v1/gateways/{id}/gone',
  'GET /v1/fallback/keys',
  'GET /v1/audit',
  'GET /v1/policies',
  'PUT /v1/policies',
  'POST /v1/policies/preview',
  'GET /v1/policies/{name}',
  'PUT /v1/policies/{name}',
  'DELETE /v1/policies/{name}',
  'GET /v1/policies/{name}/preview',
  'POST /v1/policies/{name}/resume',
  'GET /v1/unused-credentials',
  'POST /v1/leaks',
  'POST /v1/leaks/github',
  'POST /v1/leaks/gitguardian',
  'GET /v1/leaks',
  'GET /v1/leaks/{id}',
  'GET /v1/leaks/{id}/report',
  'GET /v1/leaks/{id}/report.md',
  'GET /healthz',
  'GET /readyz',
  'GET /metrics',
  'GET /openapi.json',
]
const OPEN = [
  'POST /v1/rotations/{id}/done',
  'GET /claim',
  'GET /claim/{id}',
  'POST /v1/claims/{claim}',
  'POST /v1/successor',
  'POST /v1/sessions',
  'GET /.well-known/jwks.json',
  'GET /.well-known/identity-keys.json',
  'GET /.well-known/openid-configuration',
  'POST /v1/leaks/github',
  'POST /v1/leaks/gitguardian',
  'GET /healthz',
  'GET /readyz',
  'GET /metrics',
  'GET /openapi.json',
]
const OF_OTHERS = ['GET /v1/fallback/keys', 'GET /v1/feed', 'GET /v1/keys/self']

let house: House
let api: ServedApi
let document: OpenApiDocument
let operations: [string, OpenApiOperation][]
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
  api = await serveApi(house)
  document = (await api.client.get<OpenApiDocument>('/openapi.json', { token: 'none' })).body
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, OpenApiOperation] => [
      `${method.toUpperCase()} ${path}`,
      operation,
    ]),
  )
})
afterAll(async () => {
  await api.stop()
  await house.close()
})

describe('/openapi.json', () => {
  test('is valid OpenAPI 3.1', async () => {
    const validator = new Validator()
    const { valid, errors } = await validator.validate(JSON.parse(JSON.stringify(document)))
    expect(errors).toBeUndefined()
    expect(valid).toBe(true)
    expect(validator.version).toBe('3.1')
  })

  test('describes every route, and no other', () => {
    expect(operations.map(([route]) => route).sort()).toEqual([...ROUTES].sort())
  })

  test('each operation has a name of its own, a summary, and says who may call it', () => {
    expect(new Set(operations.map(([, { operationId }]) => operationId)).size).toBe(ROUTES.length)
    for (const [route, { operationId, summary, security }] of operations) {
      expect([route, operationId, summary]).toEqual([route, expect.stringMatching(/^[a-zA-Z]+$/), expect.stringMatching(/.{5}/)])
      if ([...OPEN, ...OF_OTHERS].includes(route))
        expect([route, security?.filter((scheme) => 'operator' in scheme)]).toEqual([route, []])
      else if (route === 'POST /v1/leaks') expect(security).toEqual([{ operator: [] }, { reporter: [] }])
      else expect([route, security]).toEqual([route, [{ operator: [] }]])
    }
  })

  test('each parameter of a path is declared, and required', () => {
    for (const [route, { parameters = [] }] of operations) {
      const named = [...route.matchAll(/\{([^}]+)\}/g)].map(([, name]) => name)
      expect([route, parameters.filter((one) => one.in === 'path' && one.required === true).map(({ name }) => name)]).toEqual([
        route,
        named,
      ])
    }
  })

  test('each operation of an order or a thing to make declares its body', () => {
    for (const [route, { requestBody }] of operations) {
      expect([route, requestBody === undefined ? [] : Object.keys(requestBody.content)]).toEqual([
        route,
        /^(POST|PUT|PATCH) /.test(route) ? [route === 'POST /v1/imports' ? 'application/x-ndjson' : 'application/json'] : [],
      ])
    }
  })

  test('each response is declared: what comes when it goes well, and problem documents for the rest', () => {
    for (const [route, { responses }] of operations) {
      const statuses = Object.keys(responses)
      expect([route, statuses.some((status) => /^20[0-4]$/.test(status))]).toEqual([route, true])
      for (const [status, { description, content = {} }] of Object.entries(responses)) {
        expect([route, status, description.length > 0]).toEqual([route, status, true])
        if (status !== '204')
          expect([route, status, Object.values(content)[0]?.schema]).toEqual([route, status, expect.anything()])
      }
      if (!route.includes('/v1/')) continue
      for (const status of ['4XX', '5XX'])
        expect([route, Object.keys(responses[status]?.content ?? {})]).toEqual([route, ['application/problem+json']])
    }
  })

  test('what has no route under /v1 answers as described', async () => {
    expect((await api.client.get<{ status: string }>('/healthz', { token: 'none' })).body).toEqual({ status: 'ok' })
    const ready = await api.client.get<object>('/readyz', { token: 'none' })
    expect([ready.status, ready.body]).toEqual([200, { ready: true, postgres: 'ok', kafka: 'ok', temporal: 'ok' }])
    const metrics = await api.client.get<string>('/metrics', { token: 'none' })
    expect(metrics.headers.get('content-type')).toContain('text/plain; version=0.0.4')
    expect(metrics.body).toMatch(
      /^keyturn_api_request_duration_seconds_count\{method="GET",route="\/healthz",status="200"\} \d+$/m,
    )
  })
})
