/** Reports while a server is away, and while workers die. */
import type { CredentialId } from '@keyturn/contract'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { type RunningListener, startLeakListener } from '../../workers/leak-listener.ts'
import { startRotationWorker } from '../../workers/rotation-worker.ts'
import { serveApi } from '../support/api.ts'
import { type Forwarder, forwardKafka, forwardPostgres, forwardTemporal } from '../support/forwarder.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, startProgram } from '../support/processes.ts'
import { closed, leakOf, report, startApi } from '../support/reporting.ts'

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2, worker: false })
})
afterAll(() => house.close())

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})
function later<T extends { stop(): Promise<void> }>(started: T): T {
  closers.push(() => started.stop())
  return started
}
function through(forwarder: Forwarder): Forwarder {
  closers.push(() => forwarder.close())
  return forwarder
}

const startWorker = async () => later(await startRotationWorker(house.config, house.log))
const startListener = async (): Promise<RunningListener> =>
  later(await startLeakListener(house.config, house.log, { sweepMs: 200 }))
const statesOf = async (credentialId: CredentialId) =>
  (await house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)

test('Temporal is away: the report is recorded and answered, a trading key dies without it, and the rest is done when it is back', async () => {
  const temporal = through(await forwardTemporal())
  const api = later(await serveApi(house, { config: { temporalAddress: temporal.address } }))
  await startWorker()
  const trading = await house.credential(['trade:write'])
  const reading = await house.credential(['read:prices'])
  temporal.cut()

  const { leakId } = await report(api, { token: trading.token })
  const other = await report(api, { token: reading.token })
  await eventually(() => house.verdicts(trading.token).every((accepted) => !accepted), 'the trading key refused', 60_000)
  await eventually(async () => (await leakOf(house, other.leakId)).response === 'overlap', 'the decision on the other key')
  expect(await statesOf(trading.credentialId)).toEqual(['1 compromised retired'])
  expect((await leakOf(house, leakId)).status).toBe('open')
  expect(house.verdicts(reading.token)).toEqual([true, true])

  await startListener()
  await closed(house, leakId, 120_000)
  expect(await statesOf(trading.credentialId)).toEqual(['1 compromised retired', '2 active current'])
  const { rotationId } = await eventually(
    async () => {
      const leak = await leakOf(house, other.leakId)
      return leak.rotationId === undefined ? undefined : { rotationId: leak.rotationId }
    },
    "the other leak's rotation",
    60_000,
  )
  await house.reached(rotationId, 'monitoring', 60_000)
  for (const { credentialId } of [trading, reading])
    expect(await house.db.query('select from rotations where credential_id = $1', [credentialId])).toHaveLength(1)
})

test('nobody answers at first: what was only recorded is found by the sweep', async () => {
  const api = later(await startApi(house))
  const { token, credentialId } = await house.credential(['trade:write'])
  const { leakId } = await report(api, { token })
  // As if the API had died before it could say anything to Temporal.
  await eventually(async () => {
    const handle = house.client.workflow.getHandle(`leak/${leakId}`)
    return handle.terminate('test').then(
      () => true,
      () => false,
    )
  }, 'the workflow')
  expect((await leakOf(house, leakId)).status).toBe('open')
  await startWorker()
  await startListener()
  await closed(house, leakId, 120_000)
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
})

test('PostgreSQL is away: nothing is recorded, and the sender is told to come again', async () => {
  const postgres = through(await forwardPostgres(house.config.postgresUrl))
  const api = later(await serveApi(house, { config: { postgresUrl: (postgres as Forwarder & { url: string }).url } }))
  const { token } = await house.credential()
  postgres.cut()
  const refused = await api.client.refusal('POST', '/v1/leaks', { body: { token, source: 'test' } })
  expect(refused).toMatchObject({ status: 503, code: 'dependency-unavailable' })
  postgres.restore()
  expect(
    await house.db.query(
      "select from leaks l join keys k using (key_id) where k.credential_id is not null and l.reported_at > now() - interval '1 second'",
    ),
  ).toHaveLength(0)
  const again = await eventually(() => report(api, { token }).catch(() => undefined), 'the same report, taken')
  expect(again).toMatchObject({ isNew: true, matched: 'live' })
})

test('Kafka is away: the key is compromised in the registry, and refused as soon as gateways can hear of it', async () => {
  const kafka = through(await forwardKafka())
  const config = { ...house.config, kafkaBrokers: [kafka.address] }
  const api = later(await serveApi(house, { config }))
  later(await startRotationWorker(config, house.log))
  const { token, credentialId, keyId } = await house.credential(['trade:write'])
  kafka.cut()
  const { leakId } = await report(api, { token })
  await eventually(async () => (await house.keyState(keyId)) === 'compromised', 'the key compromised', 60_000)
  kafka.restore()
  await eventually(() => house.verdicts(token).every((accepted) => !accepted), 'the leaked key refused', 90_000)
  await closed(house, leakId, 120_000)
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
})

test(
  'G8: workers are killed on the way: every leaked key dies, each has one successor, every leak is closed',
  async () => {
    const api = later(await startApi(house))
    const credentials = await Promise.all(Array.from({ length: 6 }, () => house.credential(['trade:write'])))
    let worker = startProgram('workers/rotation-worker.ts', environmentOf(house))
    closers.push(() => worker.kill())
    const reports = await Promise.all(credentials.map(({ token }) => report(api, { token })))
    for (let kills = 0; kills < 3; kills++) {
      const before = (await house.db.query('select from rotation_stages')).length
      await eventually(
        async () => (await house.db.query('select from rotation_stages')).length > before || kills > 0,
        'some progress',
        120_000,
      )
      await worker.kill()
      worker = startProgram('workers/rotation-worker.ts', environmentOf(house))
    }
    for (const { leakId } of reports) await closed(house, leakId, 180_000)
    for (const { credentialId, token } of credentials) {
      expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
      expect(house.verdicts(token)).toEqual([false, false])
    }
  },
  10 * 60_000,
)
