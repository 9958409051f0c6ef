import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, startProgram } from '../support/processes.ts'

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1, worker: false })
})
afterAll(() => house.close())

test('a worker writes JSON lines and nothing else, with what Temporal says among them', async () => {
  const worker = startProgram('workers/rotation-worker.ts', { ...environmentOf(house, 'debug'), KEYTURN_LISTEN: '127.0.0.1:0' })
  try {
    const credential = await house.credential()
    const rotation = await house.rotate(credential.credentialId)
    await house.reached(rotation.rotationId, 'monitoring', 60_000)
    // An activity that fails is something that Temporal has to say.
    await house.db.query('alter table rotation_stages rename to gone')
    await house.order(rotation, 'rollBack')
    await eventually(() => worker.output().includes('Activity failed'), 'the word of a failed activity')
    await house.db.query('alter table gone rename to rotation_stages')
    expect(await rotation.handle.result()).toBe('rolled-back')
  } finally {
    await worker.stop()
  }
  const lines = worker.output().trimEnd().split('\n')
  const entries = lines.map((line) => {
    try {
      return JSON.parse(line) as { level: number; library?: string; msg: string; error?: { message: string } }
    } catch {
      throw new Error(`not a line of JSON: ${line}`)
    }
  })
  const temporal = entries.filter(({ library }) => library === 'temporal')
  expect(temporal.map(({ msg }) => msg)).toContain('Worker state changed')
  const failed = temporal.find(({ msg }) => msg === 'Activity failed')
  expect(failed).toMatchObject({ level: 40, error: { message: expect.stringContaining('rotation_stages') } })
})
