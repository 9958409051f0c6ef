import { createGateway } from '@keyturn/gateway'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compromiseKey } from '../../registry/keys.ts'
import { atOnce } from '../support/at-once.ts'
import { forwardKafka } from '../support/forwarder.ts'
import type { House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { runsOf } from '../support/runs.ts'

const RUNS = runsOf({ few: 12, many: 200 })

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1, worker: false, collector: false })
})
afterAll(() => house.close())

/** When things happen, in ms from the beginning. A gateway takes some hundreds of ms to join. */
interface Interleaving {
  readonly joins: number
  readonly publishes: number
  /** Nothing passes between the joining gateway and Kafka, and nothing of it is lost. */
  readonly holds: readonly { readonly from: number; readonly for: number }[]
}

const moment = fc.integer({ min: 0, max: 1_500 })
const interleaving: fc.Arbitrary<Interleaving> = fc.record({
  joins: fc.integer({ min: 0, max: 600 }),
  publishes: moment,
  holds: fc.array(fc.record({ from: moment, for: fc.integer({ min: 20, max: 700 }) }), { maxLength: 3 }),
})

test(
  'G3: once a receipt is complete, no gateway accepts the key, whenever it joined',
  async () => {
    await fc.assert(fc.asyncProperty(interleaving, joinAndPublish), { numRuns: RUNS.count, seed: RUNS.seed, endOnFailure: true })
  },
  60 * 60_000,
)

let runs = 0

async function joinAndPublish({ joins, publishes, holds }: Interleaving): Promise<void> {
  runs += 1
  const { keyId, token } = await house.credential()
  const proxy = await forwardKafka()
  const gatewayId = `gw-joins-${runs}`
  const joiner = createGateway({
    kafka: { brokers: [proxy.address], topics: house.config.topics },
    gatewayId,
    region: 'test',
    environments: ['prod'],
    failClosed: [],
    stalenessMs: 30_000,
    heartbeatMs: 1_000,
    usageWindowMs: 60_000,
    log: house.log,
  })
  const accepts = (): boolean =>
    atOnce(joiner.authenticate({ headers: { authorization: `Bearer ${token}` }, address: undefined })).accepted

  let confirmed = false
  const slipped: string[] = []
  const after = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
  const joined = after(joins).then(() => joiner.start())
  const published = after(publishes).then(async () => {
    await compromiseKey(house.db, { keyId, at: new Date(), actor: 'test', reason: 'leak' })
    const publication = await house.propagation.publish(keyId)
    const receipt = await house.propagation.waitForReceipt(publication, { timeoutMs: 60_000 })
    expect(receipt.unconfirmed).toEqual([])
    confirmed = true
  })
  const held = holds.map(async (hold) => {
    await after(hold.from)
    proxy.hold()
    await after(hold.for)
    proxy.restore()
  })
  const watching = setInterval(() => {
    if (confirmed && accepts()) slipped.push('while it joined')
  }, 1)
  try {
    await Promise.all([joined, published, ...held])
    if (accepts()) slipped.push('when it had joined')
  } finally {
    clearInterval(watching)
    await joiner.stop()
    proxy.close()
  }
  expect(slipped).toEqual([])
}
