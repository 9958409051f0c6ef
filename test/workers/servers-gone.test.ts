/** A server goes away while worker and collector run, and comes back: the rotation ends as it would have. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { type Forwarder, forwardKafka, forwardPostgres, forwardTemporal } from '../support/forwarder.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, type Running, startProgram } from '../support/processes.ts'

const WITHIN_MS = 180_000
const QUICK = { overlapMs: 3_600_000, quietPeriodMs: 0, regretWindowMs: 0 }

let house: House
let running: Running[] = []
const forwarders: Record<string, Forwarder> = {}
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2, worker: false, collector: false })
  const postgres = await forwardPostgres(house.config.postgresUrl)
  Object.assign(forwarders, { PostgreSQL: postgres, Kafka: await forwardKafka(), Temporal: await forwardTemporal() })
  const env = {
    ...environmentOf(house, 'info'),
    KEYTURN_POSTGRES_URL: postgres.url,
    KEYTURN_KAFKA_BROKERS: forwarders['Kafka']?.address ?? '',
    KEYTURN_TEMPORAL_ADDRESS: forwarders['Temporal']?.address ?? '',
  }
  running = ['rotation-worker', 'usage-collector'].map((program) => startProgram(`workers/${program}.ts`, env))
  for (const program of running) await program.says('"msg":"running"')
}, WITHIN_MS)
afterAll(async () => {
  await Promise.all(running.map((program) => program.stop()))
  for (const forwarder of Object.values(forwarders)) forwarder.close()
  await house.close()
})

/** Takes a server away, and gives it back when one of the processes has said that something is wrong. */
async function without<T>(server: string, work: () => Promise<T>): Promise<T> {
  const before = running.map((program) => program.output().length)
  forwarders[server]?.cut()
  const done = work()
  done.catch(() => undefined)
  await eventually(
    () => running.some((program, i) => /WARN|ERROR|"level":[45]0/.test(program.output().slice(before[i]))),
    `a process that misses ${server}`,
    WITHIN_MS,
  )
  forwarders[server]?.restore()
  return done
}

test.each(['PostgreSQL', 'Kafka', 'Temporal'])(
  'G8: %s goes away at the beginning of a rotation, and again when its client switches over: it ends as it would have',
  async (server) => {
    const credential = await house.credential()
    const { rotationId } = await without(server, () => house.rotate(credential.credentialId, QUICK))
    await house.reached(rotationId, 'monitoring', WITHIN_MS)
    const newToken = await house.claimNewKey(rotationId)
    await without(server, () => house.use(newToken))
    const { timeline, receipts } = await house.reached(rotationId, 'completed', WITHIN_MS)

    const stages = ['requested', 'introducing', 'notifying', 'monitoring', 'deactivating', 'completed']
    expect(timeline.map(({ stage }) => stage)).toEqual(stages)
    expect(receipts.flatMap(({ event, unconfirmed }) => (event === 'keyturn.key.deprecated' ? [] : unconfirmed))).toEqual([])
    expect((await house.keys(credential.credentialId)).map(({ version, state, standing }) => [version, state, standing])).toEqual(
      [
        [1, 'deactivated', 'retired'],
        [2, 'active', 'current'],
      ],
    )
    expect([house.verdicts(credential.token), house.verdicts(newToken)]).toEqual([
      [false, false],
      [true, true],
    ])
    expect(running.map(({ child }) => child.exitCode)).toEqual([null, null])
    expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
  },
  3 * WITHIN_MS,
)
