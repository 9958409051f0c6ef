/** A history grows with what people order, and neither with traffic nor with time. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { House, StartedRotation, TestCredential } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { LONG } from '../support/runs.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const MOST_EVENTS = 150
const POLICY = { overlapMs: 100 * DAY, quietPeriodMs: DAY, regretWindowMs: HOUR } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 1 })
})
afterAll(() => house.close())

type Going = StartedRotation & TestCredential & { readonly newToken: string }

/** A client that uses both keys every day: some of its programs have not switched. */
async function bothKeysFor(days: number, { token, newToken }: Going): Promise<void> {
  for (let day = 0; day < days; day++) {
    await house.use(token)
    await house.use(newToken)
    await house.pass(DAY)
  }
}

async function monitored(policy: Parameters<House['rotate']>[1]): Promise<Going> {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, { ...POLICY, ...policy })
  await house.reached(rotation.rotationId, 'monitoring')
  return { ...credential, ...rotation, newToken: await house.claimNewKey(rotation.rotationId) }
}

/** The client has switched; the rotation goes to its end by itself. */
async function completed(rotation: Going): Promise<void> {
  await house.use(rotation.newToken)
  await house.pass(DAY + HOUR)
  await house.settleUsage()
  await house.reached(rotation.rotationId, 'deactivating')
  await house.pass(2 * HOUR)
  expect(await rotation.handle.result()).toBe('completed')
}

const COURSES: readonly { name: string; days: readonly [number, number]; play: (days: number) => Promise<Going> }[] = [
  {
    name: 'both keys are used, until the client has switched',
    days: [14, 90],
    async play(days) {
      const rotation = await monitored({ overlapMs: (days + 10) * DAY })
      await bothKeysFor(days, rotation)
      await completed(rotation)
      return rotation
    },
  },
  {
    name: 'the old key alone is used, the client is reminded, and switches in the end',
    // Of both, the deadline is near a day before it.
    days: [20, 90],
    async play(days) {
      const rotation = await monitored({ overlapMs: days * DAY })
      for (let day = 1; day < days; day++) {
        await house.use(rotation.token)
        await house.pass(DAY)
      }
      await completed(rotation)
      return rotation
    },
  },
  {
    name: 'held by a person, while both keys are used',
    days: [3, 40],
    async play(days) {
      const rotation = await monitored({})
      await house.order(rotation, 'hold')
      await bothKeysFor(days, rotation)
      await house.order(rotation, 'resume')
      await completed(rotation)
      return rotation
    },
  },
  {
    name: 'held at the deadline, while both keys are used',
    days: [3, 60],
    async play(days) {
      const rotation = await monitored({ overlapMs: 2 * DAY })
      await bothKeysFor(3, rotation)
      await house.reached(rotation.rotationId, 'held')
      await bothKeysFor(days, rotation)
      await house.order(rotation, 'approve')
      await house.pass(2 * HOUR)
      expect(await rotation.handle.result()).toBe('completed')
      return rotation
    },
  },
  {
    name: 'extended by policy and by a person, while both keys are used',
    days: [4, 40],
    async play(days) {
      const rotation = await monitored({ overlapMs: days * DAY, onDeadline: 'extend', extendByMs: days * DAY })
      await bothKeysFor(2 * days - 1, rotation)
      await house.order(rotation, 'extend', days * DAY)
      await bothKeysFor(days, rotation)
      await completed(rotation)
      return rotation
    },
  },
]

/** The two that matter most every time; all of them in the long run. */
test.each(LONG ? COURSES : COURSES.slice(0, 2))(
  '$name: the history is as long whatever the days',
  { timeout: 400_000 },
  async ({ days, play }) => {
    const lengths: number[] = []
    for (const count of days) {
      const { handle, keyId, rotationId } = await play(count)
      const events = (await handle.fetchHistory()).events ?? []
      lengths.push(events.length)
      // The traffic was there, and the facts that came true of it were told, once each.
      const { newKeyId } = await house.rotation(rotationId)
      const uses = await house.db.query<{ accepted: number }>('select accepted from key_usage where key_id = any($1)', [
        [keyId, newKeyId],
      ])
      expect(uses.reduce((sum, { accepted }) => sum + accepted, 0)).toBeGreaterThanOrEqual(count)
      const told = events.filter(({ workflowExecutionSignaledEventAttributes }) => workflowExecutionSignaledEventAttributes)
      expect(told.length).toBeLessThanOrEqual(6)
    }
    expect(lengths[0]).toBe(lengths[1])
    expect(Math.max(...lengths)).toBeLessThanOrEqual(MOST_EVENTS)
  },
)

test('a client that has not switched is reminded three times', async () => {
  const rotation = await monitored({ overlapMs: 14 * DAY })
  await house.use(rotation.token)
  await house.pass(13 * DAY)
  await completed(rotation)
  expect(await notifications(rotation)).toBe(5)
})

test('of several reminders that fell due while it was held, it gets one', async () => {
  const rotation = await monitored({ overlapMs: 100 * DAY })
  await house.order(rotation, 'hold')
  await house.pass(80 * DAY)
  await house.order(rotation, 'resume')
  await house.pass(5 * DAY)
  // Introduced, and one for 50 % and 75 % together.
  expect(await notifications(rotation)).toBe(2)
  await house.order(rotation, 'rollBack')
  await rotation.handle.result()
})

async function notifications({ handle }: StartedRotation): Promise<number> {
  const { events } = await handle.fetchHistory()
  return (events ?? []).filter(
    ({ activityTaskScheduledEventAttributes }) => activityTaskScheduledEventAttributes?.activityType?.name === 'notifyClient',
  ).length
}
