import { encodeEvent, type KeyRecord } from '@keyturn/contract'
import fc from 'fast-check'
import { Partitioners } from 'kafkajs'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createKafka } from '../../activities/kafka.ts'
import { republishAll } from '../../activities/republish.ts'
import { eventually, type House, type TestCredential } from '../support/house.ts'
import { linesOf, registryLines } from '../support/key-lines.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf, startGatewayProcess, startProgram } from '../support/processes.ts'
import { LONG } from '../support/runs.ts'
import { kafkaClient } from '../support/servers.ts'
import { readTopic } from '../support/topics.ts'

const KEYS = LONG ? 100_000 : 10_000
const AT_ONCE = 1_000
/** From the start of the process, with an empty cache, until it serves. */
const READY_WITHIN_MS = 10_000
const PATIENCE_MS = 3 * 60_000
vi.setConfig({ testTimeout: 20 * 60_000, hookTimeout: 10 * 60_000 })

let house: House
let real: TestCredential[]
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1, worker: false, collector: false })
  real = []
  for (let i = 0; i < 5; i++) real.push(await house.credential())
  for (let from = 1; from <= KEYS - real.length; from += AT_ONCE)
    await fill(from, Math.min(from + AT_ONCE - 1, KEYS - real.length))
  await republishAll({
    db: house.db,
    kafka: createKafka(house.config.kafkaBrokers, 'test', house.log),
    topics: house.config.topics,
    log: house.log,
  })
})
afterAll(() => house.close())

/** Keys as the registry's constraints will have them, each with its entries in the audit log; every third has been suspended. */
async function fill(from: number, to: number): Promise<void> {
  const id = (prefix: string) => `'${prefix}' || lpad(n::text, 16, '0')`
  const range = `from generate_series(${from}, ${to}) n`
  const audited = (revision: number, which = '') =>
    `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash)
     select 0, now(), 'test', 'key.filled', ${id('')}, ${revision}, '{}', '', '' ${range} ${which}`
  await house.db.tx(async (tx) => {
    if (from === 1) await tx.query(`insert into clients select 'cli_0000000000000000', 'many', '[]', now()`)
    await tx.query(
      `insert into credentials select ${id('crd_')}, 'cli_0000000000000000', 'feed ' || n, 'prod', array['read:' || n % 7, 'write:orders'], 'bearer', now() ${range}`,
    )
    await tx.query(audited(1))
    await tx.query(
      `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
       select ${id('')}, ${id('crd_')}, 1, 'active', 'current', 'keyturn.key.introduced',
         jsonb_build_object('kind', 'bearer', 'sha256', encode(sha256(random()::text::bytea), 'base64')), now(), now() ${range}`,
    )
  })
  await house.db.tx(async (tx) => {
    await tx.query(audited(2, 'where n % 3 = 0'))
    await tx.query(
      `update keys set state = 'suspended', event = 'keyturn.key.suspended', revision = 2
       where key_id in (select ${id('')} ${range} where n % 3 = 0)`,
    )
  })
}

/** Adds to the log what a log should not have: old states and repetitions, in no order. */
async function disturb(): Promise<number> {
  const [events = []] = fc.sample(
    fc.shuffledSubarray((await readTopic(house.config.topics.keys)).slice(0, 3_000), { minLength: 2_000 }),
    1,
  )
  const messages = events.flatMap(({ key, value = '' }) => {
    const event = JSON.parse(value) as { data: KeyRecord }
    const before: KeyRecord = { ...event.data, state: 'active', revision: 1 }
    const old = encodeEvent({ type: 'keyturn.key.introduced', source: '/test', subject: key, time: new Date(), data: before })
    return [
      { key, value },
      { key, value: old },
      { key, value },
    ]
  })
  const producer = kafkaClient().producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  for (let i = 0; i < messages.length; i += 500) {
    await producer.send({ topic: house.config.topics.keys, messages: messages.slice(i, i + 500) })
  }
  await producer.disconnect()
  return messages.length
}

test(`G4: with ${KEYS} keys, and events repeated, reordered and replayed, a gateway equals the registry`, async () => {
  expect(await disturb()).toBeGreaterThan(5_000)
  const expected = await registryLines(house.db)
  expect(expected).toHaveLength(KEYS)
  const [running] = house.gateways
  await eventually(
    () => running?.status().lag === 0 && running.cache.size === KEYS,
    'the running gateway has read all',
    PATIENCE_MS,
  )
  expect(difference(linesOf((running ?? expect.fail()).cache), expected)).toEqual([])

  const dump = startProgram('test/support/cache-dump.ts', {
    ...environmentOf(house),
    KEYTURN_GATEWAY_ID: 'gw-dump',
    KEYTURN_GATEWAY_UPSTREAM: 'http://127.0.0.1:9',
  })
  await dump.ended
  expect(difference(dump.output().replace(/\n$/, '').split('\n'), expected)).toEqual([])
})

test(`G4: a gateway process that starts from nothing serves ${KEYS} keys${LONG ? ' within 10 s' : ''}`, async () => {
  const begun = performance.now()
  const gateway = await startGatewayProcess(house, 'gw-scale')
  const readyMs = performance.now() - begun
  const { keys } = (await (await fetch(`${gateway.url}/readyz`)).json()) as { keys: number }
  expect(keys).toBe(KEYS)
  // Its API is not there: what is accepted ends as 502.
  expect(await Promise.all(real.map(({ token }) => gateway.call(token)))).toEqual(real.map(() => 502))
  await gateway.stop()
  if (LONG) {
    process.stderr.write(`${KEYS} keys: ready ${Math.round(readyMs)} ms after the start of the process\n`)
    expect(readyMs).toBeLessThan(READY_WITHIN_MS)
  }
})

/** A few of the lines that are not on both sides. */
function difference(found: readonly string[], expected: readonly string[]): string[] {
  const both = [new Set(found), new Set(expected)] as const
  return [...found.filter((line) => !both[1].has(line)), ...expected.filter((line) => !both[0].has(line))].slice(0, 5)
}
