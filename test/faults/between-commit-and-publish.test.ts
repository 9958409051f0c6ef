import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { type Forwarder, forwardKafka } from '../support/forwarder.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, type Running, startProgram } from '../support/processes.ts'

const PATIENCE_MS = 120_000
vi.setConfig({ testTimeout: 6 * 60_000, hookTimeout: 2 * 60_000 })

let house: House
let kafka: Forwarder
const workers: Running[] = []
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2, worker: false, collector: false })
  kafka = await forwardKafka()
})
afterAll(async () => {
  await Promise.all(workers.map((worker) => worker.kill()))
  kafka.close()
  await house.close()
})

function startWorker(env: Record<string, string> = {}): Running {
  const worker = startProgram('workers/rotation-worker.ts', { ...environmentOf(house), ...env })
  workers.push(worker)
  return worker
}

test('G8: a worker killed between the change of a key and its publishing: another one publishes it', async () => {
  const { credentialId, keyId, token } = await house.credential()
  const doomed = startWorker({ KEYTURN_KAFKA_BROKERS: kafka.address })
  // It runs: it has taken a rotation as far as the client's notice.
  const first = await house.rotate((await house.credential()).credentialId)
  await house.reached(first.rotationId, 'monitoring', PATIENCE_MS)

  kafka.swallow()
  const emergency = await house.rotate(credentialId, {}, 'emergency')
  const lag = async () => {
    const key = (await house.keys(credentialId)).find((each) => each.keyId === keyId)
    return key?.state === 'compromised' ? key.revision - key.publishedRevision : undefined
  }
  await eventually(async () => (await lag()) !== undefined, 'the change is committed', PATIENCE_MS)
  await doomed.kill()
  expect(await lag()).toBe(1)
  expect(house.verdicts(token)).toEqual([true, true])

  startWorker()
  await eventually(() => house.verdicts(token).every((accepted) => !accepted), 'every gateway refuses the key', PATIENCE_MS)
  await house.reached(emergency.rotationId, 'completed', PATIENCE_MS)
  expect(await lag()).toBe(0)
})
