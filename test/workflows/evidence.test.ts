import { EVIDENCE_FACTS } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { destroyExpiredClaims } from '../../registry/claims.ts'
import { eventually, type House, type StartedRotation } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const POLICY = { overlapMs: 14 * DAY, quietPeriodMs: DAY, regretWindowMs: HOUR } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 1 })
})
afterAll(() => house.close())

/** A rotation in monitoring whose new key the client holds and uses. */
async function monitored(policy: Parameters<House['rotate']>[1] = {}) {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, { ...POLICY, ...policy })
  await house.reached(rotation.rotationId, 'monitoring')
  const newToken = await house.claimNewKey(rotation.rotationId)
  await house.use(newToken)
  return { ...credential, ...rotation, newToken }
}

const stagesOf = async ({ rotationId }: StartedRotation) => (await house.rotation(rotationId)).timeline.map(({ stage }) => stage)

describe('G2: the old key is deactivated on evidence', () => {
  test('G2: waits while the old key is still used, and deactivates once it has been quiet for the quiet period', async () => {
    const rotation = await monitored()
    for (let day = 0; day < 5; day++) {
      await house.use(rotation.token)
      await house.pass(DAY - HOUR)
      await house.settleUsage()
      expect(await house.keyState(rotation.keyId)).toBe('active')
    }
    await house.pass(HOUR + 60_000)
    await house.settleUsage()
    await house.reached(rotation.rotationId, 'deactivating')
    expect(await house.keyState(rotation.keyId)).toBe('deactivated')
    await house.pass(HOUR + 60_000)
    expect(await rotation.handle.result()).toBe('completed')
    expect(house.verdicts(rotation.token)).toEqual([false])
    expect(house.verdicts(rotation.newToken)).toEqual([true])
  })

  test('G2: an unused new key keeps the old one, however quiet it is', async () => {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId, POLICY)
    await house.reached(rotation.rotationId, 'monitoring')
    await house.pass(3 * DAY)
    await house.settleUsage()
    expect((await rotation.handle.query('progress')) as unknown).toMatchObject({ stage: 'monitoring' })
    expect(await house.keyState(credential.keyId)).toBe('active')
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
  })

  test('G2: holds at the deadline while the old key is used, and a person may approve', async () => {
    const rotation = await monitored({ onDeadline: 'hold' })
    await house.pass(14 * DAY - HOUR)
    await house.use(rotation.token)
    await house.pass(2 * HOUR)
    const held = await house.reached(rotation.rotationId, 'held')
    expect(held.heldFor).toBe('deadline')
    expect(await house.keyState(rotation.keyId)).toBe('active')
    await house.pass(30 * DAY)
    expect(await house.keyState(rotation.keyId)).toBe('active')

    await house.order(rotation, 'approve')
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('deactivated')
    const [entry] = await house.db.query<{ actor: string; detail: { reason?: string } }>(
      `select actor, detail from audit where subject = $1 and action = 'key.deactivated'`,
      [rotation.keyId],
    )
    expect(entry).toMatchObject({ actor: 'tester', detail: { reason: 'approve by test' } })
  })

  test('G2: resuming at the deadline looks at the evidence anew, and holds again while it is not sufficient', async () => {
    const rotation = await monitored({ onDeadline: 'hold' })
    await house.pass(14 * DAY - HOUR)
    await house.use(rotation.token)
    await house.pass(2 * HOUR)
    await house.reached(rotation.rotationId, 'held')
    await house.order(rotation, 'resume')
    await eventually(
      async () => (await stagesOf(rotation)).filter((stage) => stage === 'held').length === 2,
      'held a second time',
    )
    expect(await house.keyState(rotation.keyId)).toBe('active')
    await house.pass(DAY + HOUR)
    await house.settleUsage()
    await house.order(rotation, 'resume')
    await house.reached(rotation.rotationId, 'deactivating')
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
  })

  test('a client that is late can still fetch its new key while the rotation is held for it', async () => {
    const { credentialId } = await house.credential()
    const rotation = await house.rotate(credentialId, POLICY)
    await house.reached(rotation.rotationId, 'monitoring')
    await house.pass(15 * DAY)
    await house.reached(rotation.rotationId, 'held')
    await destroyExpiredClaims(house.db, new Date(house.now()))
    await house.use(await house.claimNewKey(rotation.rotationId))
    await house.order(rotation, 'resume')
    await house.reached(rotation.rotationId, 'deactivating')
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
  })

  test('G2: extends once by policy, then holds', async () => {
    const rotation = await monitored({ onDeadline: 'extend', extendByMs: 7 * DAY })
    await house.pass(14 * DAY - HOUR)
    await house.use(rotation.token)
    await house.pass(2 * HOUR)
    await eventually(async () => {
      const { deadline, openedAt } = await house.rotation(rotation.rotationId)
      return deadline !== undefined && deadline.getTime() - openedAt.getTime() > 20 * DAY
    }, 'the extended deadline')
    await eventually(async () => (await house.rotation(rotation.rotationId)).stage === 'monitoring', 'monitoring again')
    await house.pass(7 * DAY - 2 * HOUR)
    await house.use(rotation.token)
    await house.pass(3 * HOUR)
    expect((await house.reached(rotation.rotationId, 'held')).heldFor).toBe('deadline')
    expect(await house.keyState(rotation.keyId)).toBe('active')

    await house.order(rotation, 'extend', 3 * DAY)
    await eventually(async () => (await house.rotation(rotation.rotationId)).stage === 'monitoring', 'monitoring again')
    await house.pass(2 * DAY)
    await house.settleUsage()
    await house.reached(rotation.rotationId, 'deactivating')
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
  })

  test('G2: forces at the deadline where the policy says so, and the audit log says who did', async () => {
    const rotation = await monitored({ onDeadline: 'force' })
    await house.pass(14 * DAY - HOUR)
    await house.use(rotation.token)
    await house.pass(2 * HOUR)
    await house.reached(rotation.rotationId, 'deactivating')
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
    const [entry] = await house.db.query<{ actor: string }>(
      `select actor from audit where subject = $1 and action = 'key.deactivated'`,
      [rotation.keyId],
    )
    expect(entry?.actor).toBe('policy')
  })

  test('G2: an operator may deactivate a used key, with a reason that is recorded', async () => {
    const rotation = await monitored()
    await house.use(rotation.token)
    await house.order(rotation, 'deactivateNow')
    await house.reached(rotation.rotationId, 'deactivating')
    await eventually(() => house.verdicts(rotation.token).every((accepted) => !accepted), 'the old key refused')
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
  })

  test('G2: use between the signal and the transaction sends the rotation back to monitoring', async () => {
    const rotation = await monitored()
    await house.use(rotation.token)
    await rotation.handle.signal('evidence', 'old-key-quiet', rotation.rotationId)
    const monitoredAgain = async (): Promise<boolean> => {
      const { events } = await rotation.handle.fetchHistory()
      const scheduled = (events ?? []).map((event) => event.activityTaskScheduledEventAttributes?.activityType?.name)
      return (
        scheduled.indexOf('deactivateKey') > 0 && scheduled.lastIndexOf('startMonitoring') > scheduled.indexOf('deactivateKey')
      )
    }
    await eventually(monitoredAgain, 'monitoring after the attempt to deactivate')
    expect(await house.keyState(rotation.keyId)).toBe('active')
    expect((await rotation.handle.query('progress')) as unknown).toMatchObject({ stage: 'monitoring' })
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
  })
})

test('a fact that was meant for another rotation of the credential changes nothing', async () => {
  const rotation = await monitored()
  const before = 'rot_0000000000000000' as StartedRotation['rotationId']
  for (const fact of EVIDENCE_FACTS) await rotation.handle.signal('evidence', fact, before)
  await rotation.handle.signal('evidence', 'new-key-used', rotation.rotationId)
  expect((await rotation.handle.query('progress')) as unknown).toMatchObject({ stage: 'monitoring' })
  await house.pass(HOUR)
  expect(await house.keyState(rotation.keyId)).toBe('active')
  expect((await house.rotation(rotation.rotationId)).stage).toBe('monitoring')
  await house.order(rotation, 'rollBack')
  await rotation.handle.result()
})
