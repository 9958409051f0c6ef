import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { changePermissions } from '../../registry/permissions.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { standAt } from '../support/standings.ts'

const SECOND = 1_000
const QUICK = { overlapMs: 600 * SECOND, quietPeriodMs: 0, regretWindowMs: 0, receiptWaitMs: 10 * SECOND } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
})
afterAll(() => house.close())

async function monitored(policy: Parameters<House['rotate']>[1] = {}) {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, { ...QUICK, ...policy })
  await house.reached(rotation.rotationId, 'monitoring')
  return { ...credential, ...rotation, newToken: await house.claimNewKey(rotation.rotationId) }
}

describe('a rotation through all stages', () => {
  test('introduces, notifies, monitors, deactivates; each stage is recorded, each receipt names every gateway', async () => {
    const rotation = await monitored()
    await house.use(rotation.newToken)
    expect(await rotation.handle.result()).toBe('completed')
    const { timeline, receipts, newKeyId } = await house.rotation(rotation.rotationId)
    expect(timeline.map(({ stage }) => stage)).toEqual([
      'requested',
      'introducing',
      'notifying',
      'monitoring',
      'deactivating',
      'completed',
    ])
    const complete = receipts.filter(({ event }) => event !== 'keyturn.key.deprecated')
    expect(complete.map(({ keyId, event }) => [keyId, event])).toEqual([
      [newKeyId, 'keyturn.key.introduced'],
      [rotation.keyId, 'keyturn.key.deactivated'],
    ])
    for (const { gateways, unconfirmed } of complete) {
      expect(unconfirmed).toEqual([])
      expect(gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
    }
    expect(house.verdicts(rotation.token)).toEqual([false, false])
    expect(house.verdicts(rotation.newToken)).toEqual([true, true])
    expect((await house.keys(rotation.credentialId)).map(({ version, state, standing }) => [version, state, standing])).toEqual([
      [1, 'deactivated', 'retired'],
      [2, 'active', 'current'],
    ])
  })

  test('the query and the search attributes show where it stands', async () => {
    const rotation = await monitored()
    expect((await rotation.handle.query('progress')) as unknown).toMatchObject({ stage: 'monitoring', oldKeyId: rotation.keyId })
    await eventually(async () => {
      const { typedSearchAttributes } = await rotation.handle.describe()
      return typedSearchAttributes.getAll().some(({ key, value }) => key.name === 'KeyturnStage' && value === 'monitoring')
    }, 'the search attribute KeyturnStage')
    await house.order(rotation, 'rollBack')
    await rotation.handle.result()
  })
})

test('G3: a change of what a key may do, while the receipt of its end is waited for, leaves that one receipt, complete', async () => {
  const rotation = await standAt(house, 'held for the last receipt', { regretWindowMs: 0 })
  const { credentialId, keyId, rotationId } = rotation
  const [{ revision } = { revision: 0 }] = await house.keys(credentialId)
  await changePermissions(house.db, { credentialId, scopes: ['read:depth'], at: new Date(), actor: 'test' })
  await eventually(async () => {
    const [key] = await house.keys(credentialId)
    return (key?.publishedRevision ?? 0) > revision
  }, 'the change, published by whoever waits for the receipt')
  await rotation.release()
  expect(await rotation.handle.result()).toBe('completed')
  const { receipts } = await house.rotation(rotationId)
  const ofEnd = receipts.filter((receipt) => receipt.keyId === keyId && receipt.event !== 'keyturn.key.deprecated')
  expect(ofEnd).toMatchObject([{ event: 'keyturn.key.deactivated', revision, unconfirmed: [] }])
  expect(ofEnd[0]?.gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
})

describe('roll-back', () => {
  test('G1: by hand, while both keys are accepted: the old one stays accepted, the new one is refused at the end', async () => {
    const rotation = await monitored()
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
    expect(house.verdicts(rotation.token)).toEqual([true, true])
    expect(house.verdicts(rotation.newToken)).toEqual([false, false])
    const [first, second] = await house.keys(rotation.credentialId)
    expect([first?.state, first?.standing, first?.sunsetAt]).toEqual(['active', 'current', undefined])
    expect([second?.state, second?.standing]).toEqual(['deactivated', 'retired'])
  })

  test('G1: on its own in the regret window, when the old key is still asked for', async () => {
    const rotation = await monitored({ regretWindowMs: 600 * SECOND, oldKeyRefusals: 3 })
    await house.use(rotation.newToken)
    await house.reached(rotation.rotationId, 'deactivating')
    await eventually(() => house.verdicts(rotation.token).every((accepted) => !accepted), 'the old key refused')
    for (let i = 0; i < 4; i++) await house.use(rotation.token)
    expect(await rotation.handle.result()).toBe('rolled-back')
    expect(house.verdicts(rotation.token)).toEqual([true, true])
    const { timeline } = await house.rotation(rotation.rotationId)
    expect(timeline.at(-1)).toMatchObject({
      stage: 'rolled-back',
      reason: 'the old key is still asked for after it was deactivated',
    })
  })

  test('not where no regret window was asked for, however often the old key is asked for', async () => {
    const rotation = await standAt(house, 'held for the last receipt', { regretWindowMs: 0 })
    await rotation.handle.signal('evidence', 'old-key-refused', rotation.rotationId)
    await rotation.release()
    expect(await rotation.handle.result()).toBe('completed')
  })

  test('the credential can be rotated again afterwards, with a version that was never used', async () => {
    const rotation = await monitored()
    await house.order(rotation, 'rollBack')
    await rotation.handle.result()
    const again = await house.rotate(rotation.credentialId, QUICK)
    await house.reached(again.rotationId, 'monitoring')
    await house.use(await house.claimNewKey(again.rotationId))
    expect(await again.handle.result()).toBe('completed')
    expect((await house.keys(rotation.credentialId)).map(({ version, state }) => [version, state])).toEqual([
      [1, 'deactivated'],
      [2, 'deactivated'],
      [3, 'active'],
    ])
  })
})

describe('an emergency', () => {
  test('G9: compromises the old key first, then introduces a new one that can be claimed', async () => {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId, QUICK, 'emergency')
    expect(await rotation.handle.result()).toBe('completed')
    const { timeline } = await house.rotation(rotation.rotationId)
    expect(timeline.map(({ stage }) => stage)).toEqual(['requested', 'deactivating', 'introducing', 'notifying', 'completed'])
    expect(house.verdicts(credential.token)).toEqual([false, false])
    expect(house.verdicts(await house.claimNewKey(rotation.rotationId))).toEqual([true, true])
  })

  test('G9: in the regret window it makes a deactivated key compromised', async () => {
    const rotation = await monitored({ regretWindowMs: 600 * SECOND })
    await house.use(rotation.newToken)
    await house.reached(rotation.rotationId, 'deactivating')
    await house.order(rotation, 'escalate')
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
  })

  test('G9: cannot be rolled back', async () => {
    const rotation = await monitored({ regretWindowMs: 600 * SECOND })
    await house.announceSilentGateway('gw-silent')
    await house.order(rotation, 'escalate')
    await expect(house.order(rotation, 'rollBack')).rejects.toThrow()
    await house.propagation.declareGone('gw-silent')
    expect(await rotation.handle.result()).toBe('completed')
  })
})

test('hold and resume by a person', async () => {
  const rotation = await monitored()
  expect((await house.order(rotation, 'hold')).stage).toBe('held')
  await house.use(rotation.newToken)
  expect((await house.rotation(rotation.rotationId)).stage).toBe('held')
  await house.order(rotation, 'resume')
  expect(await rotation.handle.result()).toBe('completed')
})
