/**
 * How long a fleet lives: from the POST of a rollover of many credentials until the last gateway has refused the last key, beside
 * what PostgreSQL and Kafka take by themselves for as many rows updated and as many messages produced and consumed.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { encodeEvent, type RolloverId, randomBase62, type TopicNames, topicNames } from '@keyturn/contract'
import { Partitioners } from 'kafkajs'
import { Agent, request } from 'undici'
import { createPropagation } from '../activities/propagation.ts'
import { createLog } from '../infra/log.ts'
import { type FleetMember, makeFleet } from '../test/support/fleet.ts'
import type { BenchHouse } from './house.ts'
import { recordOf, tokenOf } from './keys.ts'
import { median } from './statistics.ts'

/** Between an answer of a gateway and the next request: asking must not take the machine away from what is asked about. */
const EVERY_MS = 50
const PREPARED_WITHIN_MS = 120_000

export interface FleetFigures {
  readonly keys: number
  readonly rounds: number
  /** Milliseconds from the POST until the last gateway has refused the last key. */
  readonly refusedMs: number
  /** Milliseconds from the POST to its answer: all keys are dead in the registry. */
  readonly answeredMs: number
  /** Milliseconds of one UPDATE of as many rows of the same shape and indexes. */
  readonly updateMs: number
  /** Milliseconds from the first of as many messages produced with kafkajs to the last one consumed. */
  readonly messagesMs: number
  /** Median over the rounds of: refused / (update + messages), the three of one round. */
  readonly ratio: number
}

export async function measureFleet(house: BenchHouse, { keys = 10_000, rounds = 7 } = {}): Promise<FleetFigures> {
  const taken: { refused: number; answered: number; update: number; messages: number }[] = []
  for (let round = 0; round < rounds; round++) {
    const peers = async () => ({ update: await update(house, keys), messages: await messages(house, keys) })
    const before = round % 2 === 0 ? await peers() : undefined
    const ours = await kill(house, keys)
    taken.push({ ...ours, ...(before ?? (await peers())) })
  }
  const of = (pick: (sample: (typeof taken)[number]) => number): number => median(taken.map(pick))
  return {
    keys,
    rounds,
    refusedMs: of(({ refused }) => refused),
    answeredMs: of(({ answered }) => answered),
    updateMs: of(({ update: ms }) => ms),
    messagesMs: of(({ messages: ms }) => ms),
    ratio: of(({ refused, update: rows, messages: batch }) => refused / (rows + batch)),
  }
}

/** A fleet that every gateway accepts, killed. The new keys are not what is measured: the rollover is cancelled when all are dead. */
async function kill(house: BenchHouse, keys: number): Promise<{ refused: number; answered: number }> {
  const scope = `bench-${randomBase62(10).toLowerCase()}`
  const members = await makeFleet(house.db, keys, [scope])
  await publish(house, members)
  const dispatcher = new Agent({ connections: 1, pipelining: 1 })
  try {
    const start = performance.now()
    const asked = { selector: { scope }, reason: 'bench', expected: keys }
    const posted = house.call<{ rolloverId: RolloverId }>('POST', '/v1/rollovers', asked)
    const answered = posted.then(() => performance.now() - start)
    const { rolloverId } = await posted
    const refusedAt = await Promise.all(house.gateways.map(({ url }) => untilAllRefused(url, members, dispatcher)))
    const refused = Math.max(...refusedAt) - start
    await cancel(house, rolloverId)
    return { refused, answered: await answered }
  } finally {
    await dispatcher.close()
  }
}

async function cancel(house: BenchHouse, rolloverId: RolloverId): Promise<void> {
  for (;;) {
    const done = await house.call('POST', `/v1/rollovers/${rolloverId}/cancel`, { reason: 'bench' }).then(
      () => true,
      () => false,
    )
    if (done) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

async function publish({ db, kafka, prefix }: BenchHouse, members: readonly FleetMember[]): Promise<void> {
  const topics: TopicNames = topicNames(prefix)
  const log = createLog('bench', 'error')
  const propagation = createPropagation({ kafka, topics, db, log, source: '/bench' })
  const publication = await propagation.publishMany(members.map(({ keyId }) => keyId))
  const { unconfirmed } = await propagation.waitForAll(publication, { timeoutMs: PREPARED_WITHIN_MS })
  await propagation.stop()
  if (unconfirmed.length > 0) throw new Error(`the fleet has not reached ${unconfirmed.join(', ')}`)
}

/** How many keys may be published at a time, and how many of the last of these are asked for. */
const PAGE = 1_000
const LAST = 5

/**
 * Asks a gateway with the last keys of every page that is published, again and again, until it refuses them all. A gateway applies the
 * events of a partition in their order; so all others must be refused by then, and one in a hundred is asked for.
 */
async function untilAllRefused(url: string, members: readonly FleetMember[], dispatcher: Agent): Promise<number> {
  const refuses = async ({ token }: FleetMember): Promise<boolean> => {
    const { statusCode, body } = await request(`${url}/v1/orders`, { headers: { authorization: `Bearer ${token}` }, dispatcher })
    await body.dump()
    return statusCode === 401
  }
  const inOrder = [...members].sort((a, b) => (a.credentialId < b.credentialId ? -1 : 1))
  const last = inOrder.filter((_, i) => i % PAGE >= PAGE - LAST || i >= inOrder.length - LAST)
  for (const member of last) while (!(await refuses(member))) await pause(EVERY_MS)
  const refusedAt = performance.now()
  const others = inOrder.filter((_, i) => i % 100 === 0)
  for (const member of others) if (!(await refuses(member))) throw new Error(`${url} accepts a dead key`)
  return refusedAt
}

/** One bulk UPDATE: a table with the columns, checks and indexes of `keys`, without its triggers. */
async function update({ db }: BenchHouse, rows: number): Promise<number> {
  await db.query('create table bench_rows (like keys including all)')
  try {
    await db.query(
      `insert into bench_rows (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
       select lpad(n::text, 16, '0'), 'crd_' || lpad(n::text, 16, '0'), 1, 'active', 'current', 'keyturn.key.introduced',
         jsonb_build_object('kind', 'bearer', 'sha256', encode(sha256(n::text::bytea), 'base64')), now(), now()
       from generate_series(1, $1::int) n`,
      [rows],
    )
    await db.query('analyze bench_rows')
    const start = performance.now()
    await db.query(
      `update bench_rows set state = 'compromised', standing = 'retired', event = 'keyturn.key.compromised', revision = revision + 1`,
    )
    return performance.now() - start
  } finally {
    await db.query('drop table bench_rows')
  }
}

/** A batch of events like ours to a topic of as many partitions, by kafkajs as it comes, and one consumer that throws them away. */
async function messages({ kafka, prefix }: BenchHouse, count: number): Promise<number> {
  const topic = `${prefix}fleet-peer-${randomBase62(6)}`
  const admin = kafka.admin()
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  const consumer = kafka.consumer({ groupId: topic, maxWaitTimeInMs: 500 })
  await Promise.all([admin.connect(), producer.connect(), consumer.connect()])
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: 3 }] })
  let seen = 0
  let all: () => void = () => {}
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatch: async ({ batch }) => {
      seen += batch.messages.length
      if (seen > count) all()
    },
  })
  const time = new Date()
  const batch = Array.from({ length: count }, (_, i) => {
    const data = recordOf(i, tokenOf(i))
    return {
      key: data.keyId,
      value: encodeEvent({ type: 'keyturn.key.compromised', source: '/bench', subject: data.keyId, time, data }),
    }
  })
  // The first one waits for the consumer to join.
  await producer.send({ topic, messages: batch.slice(0, 1) })
  while (seen === 0) await new Promise((resolve) => setTimeout(resolve, 20))
  const consumed = new Promise<void>((resolve) => {
    all = resolve
  })
  const start = performance.now()
  // In requests that a broker takes.
  for (let from = 0; from < count; from += 1_000)
    await producer.send({ topic, acks: -1, messages: batch.slice(from, from + 1_000) })
  await consumed
  const ms = performance.now() - start
  await Promise.all([consumer.disconnect(), producer.disconnect()])
  await admin.deleteTopics({ topics: [topic] })
  await admin.disconnect()
  return ms
}
