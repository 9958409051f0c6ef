/** A fleet rollover whose worker is killed on the way. `npm run test:long` takes a fleet of 10,000. */
import { setTimeout as pause } from 'node:timers/promises'
import { type RolloverId, randomBase62 } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { getRollover } from '../../registry/rollover-records.ts'
import { type ServedApi, serveApi } from '../support/api.ts'
import { makeFleet } from '../support/fleet.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, type Running, startProgram } from '../support/processes.ts'

const LONG = process.env['KEYTURN_TEST_LONG'] !== undefined
const FLEET = LONG ? 10_000 : 60
const KILLS = LONG ? 3 : 1
/** Counting ten thousand takes the machine away from those who make them. */
const LOOK_EVERY_MS = LONG ? 2_000 : 20
const WITHIN_MS = LONG ? 60 * 60_000 : 5 * 60_000

let house: House
let api: ServedApi
let worker: Running
const startWorker = (): Running => startProgram('workers/rotation-worker.ts', environmentOf(house))

beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2, worker: false, collector: false })
  api = await serveApi(house)
  worker = startWorker()
})
afterAll(async () => {
  await worker.kill()
  await api.stop()
  await house.close()
})

test(
  `G8: a fleet of ${FLEET}, its worker killed on the way (${KILLS} times): all dead, each once, each with one new key, and no orphan`,
  async () => {
    const scope = `fleet-${randomBase62(12).toLowerCase()}`
    const members = await makeFleet(house.db, FLEET, [scope])
    const published = await house.propagation.publishMany(members.map(({ keyId }) => keyId))
    expect((await house.propagation.waitForAll(published, { timeoutMs: 120_000 })).unconfirmed).toEqual([])
    const asked = { selector: { scope }, reason: 'breach', expected: FLEET }
    const { body } = await api.client.post<{ rolloverId: RolloverId; killed: number }>('/v1/rollovers', asked)
    expect(body.killed).toBe(FLEET)

    const read = async () => {
      await pause(LOOK_EVERY_MS)
      const rollover = await getRollover(house.db, body.rolloverId)
      if (rollover === undefined) throw new Error('there is no rollover')
      return rollover
    }
    for (let kill = 1; kill <= KILLS; kill++) {
      const enough = Math.floor((FLEET * kill) / (KILLS + 1))
      await eventually(async () => (await read()).counts.successors >= enough, `${enough} new keys`, WITHIN_MS)
      await worker.kill()
      worker = startWorker()
    }
    expect((await read()).endedAt).toBeUndefined()
    const ended = await eventually(
      async () => {
        const rollover = await read()
        return rollover.endedAt === undefined ? undefined : rollover
      },
      'the end',
      WITHIN_MS,
    )
    expect(ended).toMatchObject({
      stage: 'completed',
      counts: { selected: FLEET, killed: FLEET, confirmed: FLEET, successors: FLEET, delivered: FLEET, failed: 0 },
    })

    const keys = await house.db.query<{ versions: string; credentials: number }>(
      `select versions, count(*) as credentials from (
         select string_agg(k.version || ' ' || k.state || ' ' || k.standing || ' ' || k.revision, ', ' order by k.version) as versions
         from rollover_members m join keys k using (credential_id) where m.rollover_id = $1 group by m.credential_id) each group by 1`,
      [body.rolloverId],
    )
    expect(keys).toEqual([{ versions: '1 compromised retired 2, 2 active current 1', credentials: FLEET }])
    const open = await house.db.query('select rotation_id from rotations where ended_at is null')
    expect(open).toEqual([])
    expect(members.filter(({ token }) => house.verdicts(token).includes(true))).toEqual([])
    expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
  },
  2 * WITHIN_MS,
)
