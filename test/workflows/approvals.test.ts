import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const TERMS = { name: 'desk', overlapMs: 14 * DAY, quietPeriodMs: HOUR, regretWindowMs: 0 } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 1 })
})
afterAll(() => house.close())

type Terms = Parameters<House['rotate']>[1]

/** A rotation whose client uses its new key, and no longer the old one. */
async function switchedOver(terms: Terms, trigger: 'schedule' | 'manual' = 'schedule') {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, { ...TERMS, ...terms }, trigger)
  await house.reached(rotation.rotationId, 'monitoring')
  const newToken = await house.claimNewKey(rotation.rotationId)
  await house.use(newToken)
  return { ...credential, ...rotation, newToken }
}

const quiet = async (ms = HOUR + MINUTE): Promise<void> => {
  await house.pass(ms)
  await house.settleUsage()
}

const heldFor = async ({ rotationId }: { rotationId: Parameters<House['rotation']>[0] }) =>
  (await house.rotation(rotationId)).heldFor

describe('a policy that asks for approval before deactivating', () => {
  test('holds a scheduled rotation until a person approves, who is in the audit log', async () => {
    const rotation = await switchedOver({ approvals: 'deactivating' })
    await quiet()
    await house.reached(rotation.rotationId, 'held')
    expect(await heldFor(rotation)).toBe('approval')
    expect(await house.keyState(rotation.keyId)).toBe('active')
    await house.order(rotation, 'approve')
    await house.settleUsage()
    await house.reached(rotation.rotationId, 'completed')
    const entries = await listAudit(house.db, { rotationId: rotation.rotationId, limit: 100 })
    expect(entries.filter(({ actor }) => actor === 'tester').map(({ action, detail }) => [action, detail['reason']])).toEqual([
      ['rotation.monitoring', 'approved: approve by test'],
    ])
  })

  test('G2: an approval is no evidence: an old key that was used meanwhile stays until it has been quiet', async () => {
    const rotation = await switchedOver({ approvals: 'deactivating' })
    await quiet()
    await house.reached(rotation.rotationId, 'held')
    await house.use(rotation.token)
    await house.order(rotation, 'approve')
    await house.settleUsage()
    await eventually(async () => (await house.rotation(rotation.rotationId)).stage === 'monitoring', 'monitoring again')
    await quiet(HOUR / 2)
    expect(await house.keyState(rotation.keyId)).toBe('active')
    // It is not asked twice.
    await quiet()
    await house.reached(rotation.rotationId, 'completed')
  })

  test('resuming is not approving: it is held again', async () => {
    const rotation = await switchedOver({ approvals: 'deactivating' })
    await quiet()
    await house.reached(rotation.rotationId, 'held')
    await house.order(rotation, 'resume')
    await house.settleUsage()
    const holds = async () => (await house.rotation(rotation.rotationId)).timeline.filter(({ stage }) => stage === 'held').length
    await eventually(async () => (await holds()) === 2, 'held a second time')
    expect(await house.keyState(rotation.keyId)).toBe('active')
    await house.order(rotation, 'rollBack')
    await house.reached(rotation.rotationId, 'rolled-back')
  })

  test('does not hold a rotation that a person has started', async () => {
    const rotation = await switchedOver({ approvals: 'deactivating' }, 'manual')
    await quiet()
    await house.reached(rotation.rotationId, 'completed')
  })
})

describe('a policy that asks for approval before introducing', () => {
  test('no key is issued until a person approves', async () => {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId, { ...TERMS, approvals: 'introducing' }, 'schedule')
    await house.reached(rotation.rotationId, 'held')
    expect(await heldFor(rotation)).toBe('approval')
    expect(await house.keys(credential.credentialId)).toHaveLength(1)
    await house.order(rotation, 'approve')
    await house.reached(rotation.rotationId, 'monitoring')
    expect(await house.keys(credential.credentialId)).toHaveLength(2)
    await house.order(rotation, 'rollBack')
    await house.reached(rotation.rotationId, 'rolled-back')
  })

  test('rolled back instead, everything is as it was', async () => {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId, { ...TERMS, approvals: 'introducing' }, 'schedule')
    await house.reached(rotation.rotationId, 'held')
    await house.order(rotation, 'rollBack')
    await house.reached(rotation.rotationId, 'rolled-back')
    expect((await house.keys(credential.credentialId)).map(({ state, standing }) => [state, standing])).toEqual([
      ['active', 'current'],
    ])
  })

  test('G9: an emergency waits for nobody', async () => {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId, { ...TERMS, approvals: 'introducing' }, 'schedule')
    await house.reached(rotation.rotationId, 'held')
    await house.order(rotation, 'escalate')
    await house.reached(rotation.rotationId, 'completed')
    expect(await house.keyState(credential.keyId)).toBe('compromised')
  })
})

test('clients are reminded when the policy says', async () => {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, { ...TERMS, overlapMs: 8 * HOUR, reminders: [0.25] }, 'schedule')
  await house.reached(rotation.rotationId, 'monitoring')
  const told = async (): Promise<string[]> => {
    const { events } = await rotation.handle.fetchHistory()
    return (events ?? []).flatMap(({ activityTaskScheduledEventAttributes: scheduled }) => {
      const data = scheduled?.activityType?.name === 'notifyClient' ? scheduled.input?.payloads?.[0]?.data : undefined
      return data ? [(JSON.parse(Buffer.from(data).toString('utf8')) as { message: string }).message] : []
    })
  }
  await house.pass(HOUR)
  expect(await told()).toEqual(['introduced'])
  await house.pass(2 * HOUR)
  await eventually(async () => (await told()).length === 2, 'the reminder')
  await house.pass(4 * HOUR + HOUR / 2)
  expect(await told()).toEqual(['introduced', 'reminder'])
  await house.order(rotation, 'rollBack')
  await house.reached(rotation.rotationId, 'rolled-back')
})
