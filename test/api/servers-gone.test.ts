/** A server that Keyturn needs goes away while the API runs, and comes back. The rest of the house keeps its own way to it. */
import type { ProblemDocument } from '@keyturn/contract'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { followToTheEnd, stagesOf } from '../support/event-stream.ts'
import { type Forwarder, forwardKafka, forwardPostgres, forwardTemporal } from '../support/forwarder.ts'
import { eventually } from '../support/house.ts'
import { alertsOf } from '../support/topics.ts'
import { apiHouse, claimedCredential, contentsOf, newClient, newCredential, reached, redeem, trigger } from './support.ts'

const forwarders: Forwarder[] = []
afterAll(() => {
  for (const forwarder of forwarders) forwarder.close()
})
const opened = <F extends Forwarder>(forwarder: F): F => {
  forwarders.push(forwarder)
  return forwarder
}
let postgres: Forwarder
let kafka: Forwarder
let temporal: Forwarder
const at = apiHouse({}, async ({ config }) => {
  const database = opened(await forwardPostgres(config.postgresUrl))
  postgres = database
  kafka = opened(await forwardKafka())
  temporal = opened(await forwardTemporal())
  return { config: { postgresUrl: database.url, kafkaBrokers: [kafka.address], temporalAddress: temporal.address } }
})
afterEach(async () => {
  for (const forwarder of forwarders) forwarder.restore()
  await eventually(async () => (await at.client.get('/readyz')).status === 200, 'the API ready again', 60_000)
})

async function unavailable(server: string, method: string, path: string, body?: object): Promise<void> {
  const answer = await at.client.request<ProblemDocument>(method, path, body === undefined ? {} : { body })
  expect([path, answer.status, answer.headers.get('retry-after')]).toEqual([path, 503, '5'])
  expect(answer.body).toMatchObject({
    code: 'dependency-unavailable',
    detail: `${server} does not answer: try again in a moment.`,
  })
}

const readiness = async () => {
  const { status, body } = await at.client.get('/readyz')
  return [status, body]
}

describe('PostgreSQL', () => {
  test.each(['cut', 'swallow'] as const)(
    'is gone (%s): 503 on every route, nothing half done; it is back: everything goes on, the claim is still good',
    async (how) => {
      const { credentialId, claim } = await newCredential(at.client)
      const clientId = await newClient(at.client)
      const before = await contentsOf(at.house)
      postgres[how]()
      expect(await readiness()).toEqual([503, { ready: false, postgres: 'unavailable', kafka: 'ok', temporal: 'ok' }])
      expect((await at.client.get('/healthz')).status).toBe(200)
      const nowhere = '/v1/rotations/rot_0000000000000000'
      await Promise.all([
        unavailable('PostgreSQL', 'POST', '/v1/clients', { name: 'Acme' }),
        unavailable('PostgreSQL', 'GET', `/v1/clients/${clientId}`),
        unavailable('PostgreSQL', 'POST', `/v1/clients/${clientId}/credentials`, { name: 'f', environment: 'dev', scopes: [] }),
        unavailable('PostgreSQL', 'GET', `/v1/credentials/${credentialId}`),
        unavailable('PostgreSQL', 'POST', `/v1/credentials/${credentialId}/rotations`, { trigger: 'manual', reason: 'test' }),
        unavailable('PostgreSQL', 'GET', '/v1/rotations'),
        unavailable('PostgreSQL', 'GET', nowhere),
        unavailable('PostgreSQL', 'GET', `${nowhere}/events`),
        unavailable('PostgreSQL', 'POST', `${nowhere}/hold`, { reason: 'test' }),
        unavailable('PostgreSQL', 'POST', '/v1/gateways/gw-1/gone', { reason: 'test' }),
        unavailable('PostgreSQL', 'GET', '/v1/audit'),
        unavailable('PostgreSQL', 'POST', `/v1/claims/${claim}`),
      ])
      expect(await contentsOf(at.house)).toEqual(before)
      postgres.restore()
      await eventually(async () => (await readiness())[0] === 200, 'the API ready again', 60_000)
      expect((await redeem(at.client, claim)).status).toBe(200)
      await reached(at.client, (await trigger(at.client, credentialId)).body.rotationId, 'monitoring')
    },
  )

  test('is gone for a moment: who follows a rotation comes back, and hears of all that happened meanwhile', async () => {
    const { credentialId } = await claimedCredential(at.client)
    const { rotationId } = (await trigger(at.client, credentialId)).body
    await reached(at.client, rotationId, 'monitoring')
    const heard = followToTheEnd(at.client.url, at.house, rotationId)
    postgres.cut()
    await at.house.use(await at.house.claimNewKey(rotationId))
    await eventually(async () => (await at.house.rotation(rotationId)).stage === 'completed', 'the end', 60_000)
    postgres.restore()
    expect(stagesOf(await heard)).toEqual(['requested', 'introducing', 'notifying', 'monitoring', 'deactivating', 'completed'])
  })
})

describe('Kafka', () => {
  test.each(['cut', 'swallow'] as const)(
    'is gone (%s): what needs it says so, the rest goes on; a credential is made, and published later',
    async (how) => {
      const used = await claimedCredential(at.client)
      kafka[how]()
      expect(await readiness()).toEqual([503, { ready: false, postgres: 'ok', kafka: 'unavailable', temporal: 'ok' }])
      await Promise.all([
        unavailable('Kafka', 'GET', '/v1/gateways'),
        unavailable('Kafka', 'POST', '/v1/gateways/gw-1/gone', { reason: 'test' }),
      ])
      expect(await listAudit(at.house.db, { subject: 'gw-1', limit: 1 })).toEqual([])
      const second = await redeem(at.client, used.claim)
      expect([second.status, second.body]).toEqual([410, expect.objectContaining({ code: 'claim-used' })])
      const made = await newCredential(at.client)
      expect(made.propagated).toBe(false)
      const { token } = (await redeem(at.client, made.claim)).body
      expect((await trigger(at.client, used.credentialId)).status).toBe(202)
      await eventually(() => at.house.verdicts(token)[0] === true, 'the new key at the gateway', 60_000)

      kafka.restore()
      const alerts = await eventually(
        async () => {
          const found = await alertsOf(at.house.config.topics, used.credentialId)
          return found.some(({ kind }) => kind === 'second-claim') && found
        },
        'G10: the alert of the second claim',
        90_000,
      )
      expect(alerts.filter(({ kind }) => kind === 'second-claim')).toHaveLength(1)
      const gateways = await eventually(
        async () => {
          const { status, body } = await at.client.get<{ gateways: { gatewayId: string }[] }>('/v1/gateways')
          return status === 200 && body.gateways
        },
        'the list of gateways',
        60_000,
      )
      expect(gateways.map(({ gatewayId }) => gatewayId)).toEqual(['gw-1'])
    },
  )
})

describe('Temporal', () => {
  test.each(['cut', 'swallow'] as const)(
    'is gone (%s): no rotation begins and none is steered, all can be read; it is back: the same requests are carried out',
    async (how) => {
      const { credentialId } = await claimedCredential(at.client)
      const running = (await trigger(at.client, (await claimedCredential(at.client)).credentialId)).body.rotationId
      await reached(at.client, running, 'monitoring')
      const before = await contentsOf(at.house)
      temporal[how]()
      expect(await readiness()).toEqual([503, { ready: false, postgres: 'ok', kafka: 'ok', temporal: 'unavailable' }])
      await Promise.all([
        unavailable('Temporal', 'POST', `/v1/credentials/${credentialId}/rotations`, { trigger: 'manual', reason: 'test' }),
        unavailable('Temporal', 'POST', `/v1/rotations/${running}/hold`, { reason: 'test' }),
      ])
      expect((await at.client.get<{ stage: string }>(`/v1/rotations/${running}`)).body.stage).toBe('monitoring')
      expect(await contentsOf(at.house)).toEqual(before)
      temporal.restore()
      await eventually(async () => (await readiness())[0] === 200, 'the API ready again', 60_000)
      expect((await trigger(at.client, credentialId)).body.joined).toBe(false)
      const held = await at.client.post<{ stage: string }>(`/v1/rotations/${running}/hold`, { reason: 'test' })
      expect(held.body.stage).toBe('held')
    },
  )
})
