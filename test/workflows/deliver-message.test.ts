/** What becomes of a message over hours and days, in the whole house. No rotation here ends before its messages: see House.pass. */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { changeClient } from '../../registry/clients.ts'
import { troublesOf } from '../../registry/contact-troubles.ts'
import type { Contact } from '../../registry/contacts.ts'
import { getCredential } from '../../registry/credentials.ts'
import { type Hook, hook, webhook } from '../support/hook.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { alertsOf } from '../support/topics.ts'

const PATIENCE_MS = 60_000
const HOUR = 3_600_000
const DAY = 24 * HOUR
vi.setConfig({ testTimeout: 120_000, hookTimeout: 90_000 })

const FORTNIGHT = { overlapMs: 14 * DAY, quietPeriodMs: DAY, regretWindowMs: 0 } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 1 })
})
afterAll(() => house.close())

type Client = NonNullable<Parameters<House['credential']>[3]>['client']
async function rotate(contacts: readonly Contact[], policy: Parameters<House['rotate']>[1] = {}, client: Client = {}) {
  const credential = await house.credential(['read:prices'], 'prod', contacts, { client })
  const rotation = await house.rotate(credential.credentialId, { ...FORTNIGHT, ...policy })
  const { clientId = expect.fail() } = (await getCredential(house.db, credential.credentialId)) ?? {}
  return { ...credential, ...rotation, clientId }
}

/** Lets time pass in steps until something holds. */
const passing = (holds: () => boolean | Promise<boolean>, what: string, stepMs: number) =>
  eventually(
    async () => {
      if (await holds()) return true
      await house.pass(stepMs)
      return holds()
    },
    what,
    PATIENCE_MS,
  )

/** That the delivery of the last message has ended; to wait for its result would let time pass. */
const ended = ({ ids }: Hook) =>
  eventually(
    async () => (await house.client.workflow.getHandle(`message/${ids.at(-1)}`).describe()).status.name === 'COMPLETED',
    'the end of the delivery',
    PATIENCE_MS,
  )

const untold = async (credentialId: string) =>
  (await alertsOf(house.config.topics, credentialId)).filter(({ kind }) => kind === 'notification-failed')

test('a contact that a message did not reach for a day is no longer used, an alert says so, and giving the contacts anew has it tried again', async () => {
  const [dead, good] = [await hook(() => 500), await hook()]
  const contacts = [webhook(dead), webhook(good)]
  const rotation = await rotate(contacts)
  const { clientId, credentialId } = rotation
  const begun = house.now()
  const disabledAt = async () => [...(await troublesOf(house.db, clientId)).values()][0]?.disabledAt
  await passing(async () => (await disabledAt()) !== undefined, 'the end of the webhook', 2 * HOUR)

  // One at once, then those that Temporal makes: all of them of one message, which the next contact had long before.
  expect([dead.bodies.length, new Set(dead.ids).size, good.count('introduced')]).toEqual([36, 1, 1])
  const after = ((await disabledAt())?.getTime() ?? 0) - begun
  expect([after > DAY, after < DAY + 2 * HOUR]).toEqual([true, true])
  const alerts = await alertsOf(house.config.topics, credentialId)
  expect(alerts).toMatchObject([{ kind: 'delivery-failed', rotationId: rotation.rotationId }])
  expect(alerts[0]?.detail).toBe(
    `webhook ${dead.host} of client ${clientId} is no longer used: ${dead.host} answered 500. Give its contacts anew when it works (PUT /v1/clients/${clientId})`,
  )
  await ended(dead)

  await house.order(rotation, 'rollBack')
  await house.reached(rotation.rotationId, 'rolled-back', PATIENCE_MS)
  expect([dead.bodies.length, good.count('rolled-back')]).toEqual([36, 1])

  await changeClient(house.db, clientId, { contacts, at: new Date(house.now()), actor: 'test' })
  await house.rotate(credentialId, FORTNIGHT)
  await eventually(() => dead.bodies.length > 36, 'the webhook is tried again', PATIENCE_MS)
})

test('a reminder waits for the end of quiet hours on the clock of the client, and is not sent then to one that has switched over', async () => {
  const [late, moved] = [await hook(), await hook()]
  const [begun, timeZone] = [house.now(), 'Asia/Kolkata']
  const clock = (ms: number) =>
    new Intl.DateTimeFormat('en-GB', { timeZone, hour: '2-digit', minute: '2-digit' }).format(begun + ms)
  const client = { timeZone, quietHours: { from: clock(2 * HOUR), to: clock(6 * HOUR) } }
  const policy = { overlapMs: 8 * HOUR, reminders: [0.5] }
  await rotate([webhook(late)], policy, client)
  const { rotationId, credentialId, token } = await rotate([webhook(moved)], policy, client)
  await house.reached(rotationId, 'monitoring', PATIENCE_MS)
  await house.pass(5 * HOUR)
  // With one program of it; the rotation goes on.
  await house.use(await house.claimNewKey(rotationId))
  await house.use(token)
  await house.pass(HOUR / 2)
  expect([late, moved].map(({ bodies }) => bodies.map(({ type }) => type))).toEqual([
    ['keyturn.rotation.introduced'],
    ['keyturn.rotation.introduced'],
  ])

  const step = 5 * 60_000
  await passing(() => late.count('reminder') === 1, 'the reminder', step)
  const morning = Math.floor((begun + 6 * HOUR) / 60_000) * 60_000
  expect(house.now()).toBeGreaterThan(morning)
  expect(house.now()).toBeLessThan(morning + 2 * step)
  await house.pass(HOUR)
  expect(moved.bodies).toHaveLength(1)
  // Nobody has to look after a client that had nothing to hear.
  expect(await untold(credentialId)).toEqual([])
})

test('a reminder that could not be sent before quiet hours waits for their end as well, on every contact, and no alert is raised meanwhile', async () => {
  let down = true
  const [first, second] = [await hook((before) => (before > 0 && down ? 503 : 204)), await hook(() => (down ? 503 : 204))]
  const begun = house.now()
  const clock = (ms: number) => new Date(begun + ms).toISOString().slice(11, 16)
  // A reminder after two hours; minutes later it is night.
  const client = { quietHours: { from: clock(2 * HOUR + 4 * 60_000), to: clock(7 * HOUR) } }
  const policy = { overlapMs: 24 * HOUR, reminders: [1 / 12] }
  const { credentialId, rotationId } = await rotate([webhook(first), webhook(second)], policy, client)
  await house.reached(rotationId, 'monitoring', PATIENCE_MS)
  await house.pass(2 * HOUR - 60_000)
  await passing(() => second.count('reminder') > 0, 'the reminder on the second contact', 20_000)
  const night = (Math.floor((begun + 2 * HOUR) / 60_000) + 4) * 60_000
  expect(house.now()).toBeLessThan(night)
  // An attempt goes by the time of the one before it here: the test server says no other.
  await house.pass(night - house.now() + 10 * 60_000)
  down = false
  const reminders = () => first.count('reminder') + second.count('reminder')
  const before = reminders()
  for (let hours = 0; hours < 4; hours++) await house.pass(HOUR)
  expect(reminders()).toBe(before)
  expect(await untold(credentialId)).toEqual([])
  const morning = Math.floor((begun + 7 * HOUR) / 60_000) * 60_000
  await passing(() => reminders() > before, 'the reminder', 5 * 60_000)
  expect(house.now()).toBeGreaterThanOrEqual(morning)
})

test('shortly before the deadline a client that still uses its old key hears of it once more, and of each deadline anew', async () => {
  const client = await hook()
  const rotation = await rotate([webhook(client)], { reminders: [] })
  await house.reached(rotation.rotationId, 'monitoring', PATIENCE_MS)
  await house.use(rotation.token)
  await house.pass(13 * DAY)
  expect(client.bodies).toHaveLength(1)
  for (const count of [1, 2]) {
    await passing(() => client.bodies.length === 1 + count, 'the last reminder', HOUR)
    const { type, data } = client.bodies[count] ?? {}
    const { deadline = new Date(0) } = await house.rotation(rotation.rotationId)
    expect([type, data?.sunsetAt, data?.stragglers.map(({ address }) => address)]).toEqual([
      'keyturn.rotation.deadline-near',
      deadline.toISOString(),
      ['192.0.2.1'],
    ])
    // A twentieth of the overlap, as it was asked for.
    const left = deadline.getTime() - house.now()
    expect([left < 16.8 * HOUR, left > 15.7 * HOUR]).toEqual([true, true])
    if (count === 1) await house.order(rotation, 'extend', 14 * DAY)
    await house.pass(13 * DAY)
  }
})

test('a rotation whose client could not be told on any contact is held; resumed, it tells the client anew, on the contacts of then', async () => {
  const [gone, shut, good] = [await hook(() => 410), await hook(() => 403), await hook()]
  const rotation = await rotate([webhook(gone), webhook(shut)])
  const { rotationId, clientId } = rotation
  const { heldFor, timeline } = await house.reached(rotationId, 'held', PATIENCE_MS)
  const why = `webhook ${gone.host}: ${gone.host} answered 410; webhook ${shut.host}: ${shut.host} answered 403`
  expect([heldFor, timeline.at(-1)?.reason]).toEqual(['untold', `the client could not be told of its new key: ${why}`])
  expect([gone.bodies.length, shut.bodies.length]).toEqual([1, 1])

  await changeClient(house.db, clientId, { contacts: [webhook(good)], at: new Date(house.now()), actor: 'test' })
  await house.order(rotation, 'resume')
  await house.reached(rotationId, 'monitoring', PATIENCE_MS)
  expect(good.bodies).toMatchObject([{ type: 'keyturn.rotation.introduced', data: { rotationId } }])
  const told = await listAudit(house.db, { rotationId, limit: 100 })
  expect(told.filter(({ action }) => action === 'client.told').map(({ detail }) => detail['to'])).toEqual([
    [`webhook ${good.host}`],
  ])
  const code = /claims\/(\w+)$/.exec(good.bodies[0]?.data?.claimUrl ?? '')?.[1] ?? expect.fail()
  expect(house.verdicts(await house.claim(code))).toEqual([true])
})
