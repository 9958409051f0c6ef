import { randomBase62 } from '@keyturn/contract'
import { policyScheduleId } from '@keyturn/contract/policy-run'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { reconcileSchedules } from '../../api/schedules.ts'
import { applyPolicies, listPolicies, removePolicy } from '../../registry/policies.ts'
import { startPolicySchedules } from '../../workers/policy-schedules.ts'
import { serveApi } from '../support/api.ts'
import { forwardTemporal } from '../support/forwarder.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
})
afterAll(() => house.close())

const newName = (): string => `p${randomBase62(8).toLowerCase()}`
const apply = (name: string) =>
  applyPolicies(house.db, {
    policies: [{ name, select: { labels: { of: name } } }],
    order: 'keep',
    prune: false,
    at: new Date(),
    actor: 'test',
  })
const isThere = (name: string): Promise<boolean> =>
  house.client.schedule
    .getHandle(policyScheduleId(house.config.taskQueue, name))
    .describe()
    .then(
      () => true,
      () => false,
    )
const names = async () => (await listPolicies(house.db)).map(({ name }) => name)

test('what was changed while Temporal was away follows: a schedule for each policy, and none without', async () => {
  const [made, gone] = [newName(), newName()]
  await apply(gone)
  const schedules = startPolicySchedules(house.db, house.client, house.config.taskQueue, house.log)
  await eventually(() => isThere(gone), 'the schedule')
  await schedules.stop()

  await removePolicy(house.db, { name: gone, at: new Date(), actor: 'test' })
  await apply(made)
  // The list of schedules follows a moment behind.
  await eventually(async () => {
    await reconcileSchedules(house.client, house.config.taskQueue, names)
    return (await isThere(made)) && !(await isThere(gone))
  }, 'one schedule for the other')
})

test('schedules of another deployment are left alone', async () => {
  const name = newName()
  await apply(name)
  await reconcileSchedules(house.client, house.config.taskQueue, names)
  const elsewhere = `${house.config.taskQueue}-elsewhere`
  await reconcileSchedules(house.client, elsewhere, async () => [])
  expect(await isThere(name)).toBe(true)
})

test('a policy is applied while Temporal is away, and the answer says that its schedule follows', async () => {
  const forwarder = await forwardTemporal()
  const api = await serveApi(house, { config: { temporalAddress: forwarder.address } })
  const name = newName()
  forwarder.cut()
  const body = { select: { labels: { of: name } } }
  const set = await api.client.request('PUT', `/v1/policies/${name}`, { body })
  expect(set).toMatchObject({ status: 200, body: { name, scheduled: false } })
  expect(await isThere(name)).toBe(false)
  await reconcileSchedules(house.client, house.config.taskQueue, names)
  expect(await isThere(name)).toBe(true)
  await api.stop()
  forwarder.close()
})
