/** The receipt of `deprecated`: nobody's access hangs on it, so it is waited for a moment, and then the rotation goes on. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { getKey } from '../../registry/keys.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess } from '../support/processes.ts'

const MINUTE = 60_000

let house: House
let slow: GatewayProcess
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1 })
  slow = await startGatewayProcess(house, 'gw-slow')
})
afterAll(async () => {
  slow.child.kill('SIGCONT')
  await slow.stop()
  await house.close()
})

async function monitored() {
  const { credentialId, keyId } = await house.credential()
  const rotation = await house.rotate(credentialId, { overlapMs: 10 * MINUTE, quietPeriodMs: 0 })
  await house.reached(rotation.rotationId, 'monitoring')
  return { ...rotation, keyId }
}

const lastReceipt = async (rotationId: Parameters<House['rotation']>[0]) => (await house.rotation(rotationId)).receipts.at(-1)

test('the receipt of the sunset waits for a gateway that is a little late', async () => {
  const rotation = await monitored()
  const revision = (await getKey(house.db, rotation.keyId))?.revision ?? 0
  slow.child.kill('SIGSTOP')
  await house.order(rotation, 'extend', 20 * MINUTE)
  await eventually(async () => {
    const [key] = await house.db.query<{ published_revision: number }>('select published_revision from keys where key_id = $1', [
      rotation.keyId,
    ])
    return (key?.published_revision ?? 0) > revision
  }, 'the new sunset, published')
  slow.child.kill('SIGCONT')
  const receipt = await eventually(async () => {
    const last = await lastReceipt(rotation.rotationId)
    return last !== undefined && last.revision > revision ? last : undefined
  }, 'the receipt')
  expect(receipt).toMatchObject({ keyId: rotation.keyId, event: 'keyturn.key.deprecated', unconfirmed: [] })
  expect(receipt.gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-slow'])
  await house.order(rotation, 'rollBack')
  expect(await rotation.handle.result()).toBe('rolled-back')
})

test('a gateway that is silent is named in the receipt of the sunset, and holds nothing', async () => {
  const rotation = await monitored()
  await house.announceSilentGateway('gw-silent')
  await house.order(rotation, 'extend', 20 * MINUTE)
  // It is taken up only when the rotation has stopped waiting for the receipt.
  await house.order(rotation, 'hold')
  const held = await house.reached(rotation.rotationId, 'held')
  expect(held.heldFor).toBe('operator')
  expect(held.timeline.filter(({ stage }) => stage === 'held')).toHaveLength(1)
  expect(await lastReceipt(rotation.rotationId)).toMatchObject({ event: 'keyturn.key.deprecated', unconfirmed: ['gw-silent'] })
  await house.order(rotation, 'rollBack')
  await house.propagation.declareGone('gw-silent')
  expect(await rotation.handle.result()).toBe('rolled-back')
})
