import type { Alert, EvidenceFact, GatewayId, RotationPolicy, TopicNames, UsageOutcome, UsageReport } from '@keyturn/contract'
import fc from 'fast-check'
import pino from 'pino'
import { afterEach, beforeEach, describe, expect, inject, test, vi } from 'vitest'
import { type GatewayWatch, watchGateways } from '../../activities/gateway-watch.ts'
import { createKafka, createPublisher, type Publisher } from '../../activities/kafka.ts'
import { createPropagation } from '../../activities/propagation.ts'
import { type Collector, startCollector } from '../../activities/usage.ts'
import { UsageWindow } from '../../gateway/src/usage-window.ts'
import type { Database } from '../../registry/database.ts'
import { setDeadline } from '../../registry/rotations.ts'
import { readEvidence, usageOffsets } from '../../registry/usage.ts'
import { at, DAY, HOUR, makeCredential, monitored, openTestDatabase, type TestRotation } from '../registry/world.ts'
import { eventually } from '../support/house.ts'
import { loseTopic } from '../support/lost-topic.ts'
import { kafkaClient, uniqueTopics } from '../support/servers.ts'
import { accepted, createWords, usageMessage, type Words } from './words.ts'

const PATIENCE_MS = 60_000
vi.setConfig({ testTimeout: 3 * 60_000, hookTimeout: 60_000 })

let logged = ''
const log = pino(
  { level: 'info' },
  {
    write: (line: string) => {
      logged += line
    },
  },
)
const kafka = createKafka(inject('kafkaBrokers'), 'test', log)
let db: Database
let topics: TopicNames
let publisher: Publisher
let words: Words
let watch: GatewayWatch
let now: number
let told: { rotationId: string; fact: EvidenceFact }[]
let alerts: Omit<Alert, 'at'>[]
let collectors: Collector[]

beforeEach(async () => {
  logged = ''
  now = 0
  told = []
  alerts = []
  collectors = []
  db = await openTestDatabase()
  topics = (await uniqueTopics()).topics
  publisher = createPublisher(kafka)
  words = createWords(publisher, topics)
  watch = watchGateways(kafka, topics, log)
})
afterEach(async () => {
  await Promise.all([...collectors.map((collector) => collector.stop()), watch.stop(), publisher.stop()])
  await db.close()
})

async function collect(): Promise<Collector> {
  const collector = await startCollector({
    kafka,
    topics,
    db,
    watch,
    tell: async ({ rotationId }, fact) => {
      told.push({ rotationId, fact })
      return true
    },
    alert: async (alert) => void alerts.push(alert),
    clock: () => at(now),
    log,
  })
  collectors.push(collector)
  return collector
}

/** Everything on the usage topic is counted. */
async function counted(): Promise<void> {
  const admin = kafkaClient().admin()
  await admin.connect()
  await eventually(
    async () => {
      const ends = (await admin.fetchTopicOffsets(topics.usage)).filter(({ low, high }) => low !== high)
      const offsets = await usageOffsets(db)
      return ends.every(({ partition, high }) => offsets.get(partition) === high)
    },
    'all usage is counted',
    PATIENCE_MS,
  )
  await admin.disconnect()
}

/** One more window of each gateway, that ends at a time. */
const through = (ms: number, ...gatewayIds: string[]) =>
  Promise.all(gatewayIds.map((gatewayId) => words.say(gatewayId, { usageThrough: at(ms).toISOString() })))

const sumOf = async (keyId: string): Promise<number> =>
  (await db.query<{ accepted: number }>('select accepted from key_usage where key_id = $1', [keyId]))[0]?.accepted ?? 0

const evidenceOf = ({ rotationId }: TestRotation) => readEvidence(db, rotationId)

/** A rotation whose client uses its new key since the first hour. */
async function switchedOver(policy: Partial<RotationPolicy> = {}): Promise<TestRotation> {
  const rotation = await monitored(db, { quietPeriodMs: DAY, ...policy })
  await words.tell(accepted('gw-1', rotation.newKeyId, at(HOUR)))
  return rotation
}

test('what is known of the use of both keys, and who still uses the old one', async () => {
  const rotation = await switchedOver()
  const collector = await collect()
  const source = { address: '192.0.2.7', userAgent: 'old/1.0', count: 3, lastAt: at(2 * HOUR).toISOString() }
  await words.tell(
    accepted('gw-1', rotation.keyId, at(2 * HOUR), { count: 3, sources: [source] }),
    accepted('gw-2', rotation.keyId, at(3 * HOUR), {
      count: 2,
      sources: [{ ...source, count: 2, lastAt: at(3 * HOUR).toISOString() }],
    }),
  )
  await through(4 * HOUR, 'gw-1')
  await through(5 * HOUR, 'gw-2')
  now = 5 * HOUR
  await collector.sweep()
  expect(await evidenceOf(rotation)).toEqual({
    completeThrough: at(4 * HOUR).toISOString(),
    oldKeyLastUsedAt: at(3 * HOUR).toISOString(),
    newKeyFirstUsedAt: at(HOUR).toISOString(),
    newKeyLastUsedAt: at(HOUR).toISOString(),
    newKeyRefusals: 0,
    oldKeyRefusals: 0,
    silentGateways: ['gw-1'],
    stragglers: [{ ...source, count: 5, lastAt: at(3 * HOUR).toISOString() }],
    sufficient: false,
  })
})

describe('counting', () => {
  test('reports that were sent again, and gateways in any order, are counted once', async () => {
    const keys = await Promise.all(Array.from({ length: 6 }, () => makeCredential(db)))
    await collect()
    // Three gateways; each sends its reports in order, and some of them again, at once or later.
    const sent: UsageReport[] = []
    const gateways = ['gw-1', 'gw-2', 'gw-3'].map((gatewayId) => {
      const [repeated = []] = fc.sample(fc.array(fc.nat({ max: 39 }), { minLength: 20, maxLength: 40 }), 1)
      const first = Array.from({ length: 40 }, (_, i) =>
        accepted(gatewayId, (keys[i % 6] ?? expect.fail()).keyId, at(i), { count: 1 + i, incarnation: 'a', serial: i + 1 }),
      )
      sent.push(...first)
      return first.flatMap((report, i) => [
        report,
        ...repeated.filter((r) => r <= i && (r + i) % 3 === 0).map((r) => first[r] ?? report),
      ])
    })
    const longest = Math.max(...gateways.map(({ length }) => length))
    for (let i = 0; i < longest; i++) await words.tell(...gateways.flatMap((reports) => reports.slice(i, i + 1)))
    await counted()
    const expected = new Map<string, number>()
    for (const { keyId, outcomes } of sent) expected.set(keyId, (expected.get(keyId) ?? 0) + (outcomes[0]?.count ?? 0))
    for (const { keyId } of keys) expect(await sumOf(keyId)).toBe(expected.get(keyId))
  })

  test('collectors that come and go share the work, and count nothing twice', async () => {
    const keys = await Promise.all(Array.from({ length: 9 }, () => makeCredential(db)))
    const first = await collect()
    let sent = 0
    const traffic = async (rounds: number): Promise<void> => {
      for (let i = 0; i < rounds; i++) {
        await words.tell(...keys.map(({ keyId }) => accepted('gw-1', keyId, at(i))))
        sent += 1
      }
    }
    await traffic(20)
    const second = collect()
    await traffic(40)
    const third = collect()
    await traffic(40)
    await first.stop()
    await traffic(40)
    await Promise.all([second, third])
    await traffic(20)
    await counted()
    for (const { keyId } of keys) expect(await sumOf(keyId)).toBe(sent)
  })

  test('poison on the usage topic is skipped: logged without its content, and it stops nothing', async () => {
    const { keyId } = await makeCredential(db)
    const other = await makeCredential(db)
    const collector = await collect()
    const secret = 'kt_prod_thisIsNoRealSecret'
    const good = usageMessage(accepted('gw-1', keyId, at(1)))
    const value = String(good.value)
    const poison = [
      { key: keyId, value: `not json ${secret}` },
      { key: keyId, value: '' },
      { key: keyId, value: 'null' },
      { key: keyId, value: null },
      { key: keyId, value: value.replace('accepted', 'adored') },
      { key: keyId, value: value.replace('"count":1', '"count":-1') },
      { key: keyId, value: value.replace('keyturn.usage.report', 'keyturn.usage.rumour') },
      { key: other.keyId, value },
      { key: null, value },
      { key: keyId, value: Buffer.from([0, 255, 254, 1]) },
      { key: keyId, value: `"${'x'.repeat(900_000)}"` },
    ]
    for (const message of poison) await publisher.send(topics.usage, [message])
    await publisher.send(topics.usage, [good])
    await counted()
    expect(await sumOf(keyId)).toBe(1)
    expect(collector.counts).toEqual({ reports: 1, skipped: poison.length })
    expect(logged).toContain('skipped usage reports that make no sense')
    expect(logged).not.toContain(secret)
    expect(logged).not.toContain('xxx')
  })

  test('a usage topic that was lost and made anew is collected from its beginning', async () => {
    const { keyId } = await makeCredential(db)
    const rotation = await switchedOver({ quietPeriodMs: HOUR })
    for (let i = 0; i < 10; i++) await words.tell(accepted('gw-1', keyId, at(i)), accepted('gw-1', rotation.keyId, at(i)))
    const collector = await collect()
    await counted()
    await loseTopic(topics, topics.usage)
    await eventually(
      () => words.tell(accepted('gw-1', keyId, at(20)), accepted('gw-1', rotation.keyId, at(10 * HOUR))).catch(() => undefined),
      'Kafka takes usage again',
      PATIENCE_MS,
    )
    await through(10 * HOUR + 1, 'gw-1')
    // Until then nothing says that the old key was quiet.
    await eventually(
      async () => {
        await collector.sweep()
        expect((await evidenceOf(rotation)).sufficient).toBe(false)
        return (await sumOf(keyId)) === 11
      },
      'the new topic is counted',
      PATIENCE_MS,
    )
  })
})

describe('signals', () => {
  test('each fact is told once, however long the traffic goes on', async () => {
    const rotation = await switchedOver()
    const collector = await collect()
    const day = async (from: number, rounds: number): Promise<void> => {
      for (let i = 0; i < rounds; i++) {
        const ms = from + i * 60_000
        now = ms
        await words.tell(accepted('gw-1', rotation.keyId, at(ms)), accepted('gw-1', rotation.newKeyId, at(ms)))
        await through(ms, 'gw-1')
        await collector.sweep()
      }
    }
    await day(2 * HOUR, 5)
    const after5 = told.length
    await day(3 * HOUR, 60)
    expect([after5, told]).toEqual([1, [{ rotationId: rotation.rotationId, fact: 'new-key-used' }]])
    await through(3 * HOUR + 59 * 60_000 + DAY, 'gw-1')
    for (let i = 0; i < 5; i++) await collector.sweep()
    expect(told.map(({ fact }) => fact)).toEqual(['new-key-used', 'old-key-quiet'])
  })

  test('several collectors tell each fact once between them', async () => {
    const rotations = await Promise.all(Array.from({ length: 5 }, () => switchedOver()))
    const all = await Promise.all([collect(), collect(), collect()])
    await through(3 * DAY, 'gw-1')
    await counted()
    for (let i = 0; i < 4; i++) await Promise.all(all.map((collector) => collector.sweep()))
    expect(told.map(({ rotationId, fact }) => `${rotationId} ${fact}`).sort()).toEqual(
      rotations.flatMap(({ rotationId }) => [`${rotationId} new-key-used`, `${rotationId} old-key-quiet`]).sort(),
    )
  })

  test('a fact that could not be told is told later', async () => {
    const rotation = await switchedOver()
    const collector = await startCollector({
      kafka,
      topics,
      db,
      watch,
      tell: async () => {
        if (now === 0) throw new Error('Temporal is away')
        told.push({ rotationId: rotation.rotationId, fact: 'new-key-used' })
        return true
      },
      alert: async () => undefined,
      clock: () => at(now),
      log,
    })
    collectors.push(collector)
    await counted()
    await expect(collector.sweep()).rejects.toThrow('Temporal is away')
    now = 1
    await collector.sweep()
    await collector.sweep()
    expect(told).toHaveLength(1)
  })
})

describe('G2: the evidence is never ahead of what is known', () => {
  test('G2: while usage is reported that is not counted yet, nothing newer is claimed', async () => {
    const rotation = await switchedOver()
    const collector = await collect()
    await through(2 * HOUR, 'gw-1')
    await counted()
    await collector.sweep()
    const before = await evidenceOf(rotation)
    expect(before.completeThrough).toBe(at(2 * HOUR).toISOString())

    // The collector is stuck at its counting: somebody holds what it has to write.
    const blocker = await db.pool.connect()
    await blocker.query('begin; set local idle_in_transaction_session_timeout = 0; lock table usage_offsets in exclusive mode')
    await words.tell(accepted('gw-1', rotation.keyId, at(3 * DAY)))
    await through(3 * DAY + 1, 'gw-1')
    await collector.sweep()
    expect(await evidenceOf(rotation)).toEqual(before)
    await blocker.query('rollback')
    blocker.release()
    await counted()
    await collector.sweep()
    expect(await evidenceOf(rotation)).toMatchObject({ oldKeyLastUsedAt: at(3 * DAY).toISOString(), sufficient: false })
  })

  test('G2: a collector that was down catches up before it says anything new', async () => {
    const rotation = await switchedOver()
    const before = await collect()
    await through(2 * HOUR, 'gw-1')
    await counted()
    await before.sweep()
    await before.stop()
    for (let i = 0; i < 200; i++) await words.tell(accepted('gw-1', rotation.keyId, at(2 * DAY + i)))
    await through(2 * DAY + 200, 'gw-1')
    const collector = await collect()
    await eventually(
      async () => {
        await collector.sweep()
        const { sufficient, completeThrough } = await evidenceOf(rotation)
        expect(sufficient).toBe(false)
        return completeThrough === at(2 * DAY + 200).toISOString()
      },
      'it has caught up',
      PATIENCE_MS,
    )
    expect(await evidenceOf(rotation)).toMatchObject({ oldKeyLastUsedAt: at(2 * DAY + 199).toISOString() })
    expect(await sumOf(rotation.keyId)).toBe(200)
  })

  test.each([
    ['ahead', 2 * HOUR],
    ['behind', -2 * HOUR],
  ])('G2: a gateway whose clock is %s makes the evidence later, never earlier', async (_, skew) => {
    const rotation = await switchedOver()
    const collector = await collect()
    const used = 5 * HOUR
    // The old key was used at both, at the same moment; each tells it by its own clock.
    await words.tell(accepted('gw-1', rotation.keyId, at(used)), accepted('gw-skewed', rotation.keyId, at(used + skew)))
    const sufficientAfter = async (ms: number): Promise<boolean> => {
      await through(used + ms, 'gw-1')
      await through(used + ms + skew, 'gw-skewed')
      await collector.sweep()
      return (await evidenceOf(rotation)).sufficient
    }
    expect(await sufficientAfter(DAY - 1)).toBe(false)
    expect(await sufficientAfter(DAY + Math.abs(skew))).toBe(true)
  })

  test('G2: a gateway that has said nothing of usage yet, and no gateway at all, is no evidence', async () => {
    const rotation = await switchedOver()
    const collector = await collect()
    await counted()
    await collector.sweep()
    expect(await evidenceOf(rotation)).not.toHaveProperty('completeThrough')
    await through(3 * DAY, 'gw-1')
    await words.say('gw-2')
    await collector.sweep()
    expect(await evidenceOf(rotation)).toMatchObject({ sufficient: false, silentGateways: ['gw-2'] })
    await words.leave('gw-2')
    await collector.sweep()
    expect((await evidenceOf(rotation)).sufficient).toBe(true)
  })

  test('G2: what a gateway had counted when it was killed is lost: the quiet period begins anew', async () => {
    const rotation = await switchedOver()
    const collector = await collect()
    await words.say('gw-1', { usageThrough: at(2 * HOUR).toISOString() })
    await words.say('gw-1', { incarnation: '2', at: at(20 * HOUR).toISOString(), usageThrough: at(20 * HOUR).toISOString() })
    const sufficientAt = async (ms: number): Promise<boolean> => {
      await words.say('gw-1', { incarnation: '2', at: at(ms).toISOString(), usageThrough: at(ms).toISOString() })
      await collector.sweep()
      return (await evidenceOf(rotation)).sufficient
    }
    await counted()
    expect(await sufficientAt(2 * HOUR + DAY)).toBe(false)
    expect((await evidenceOf(rotation)).usageLostAt).toBe(at(20 * HOUR).toISOString())
    expect(await sufficientAt(20 * HOUR + DAY - 1)).toBe(false)
    expect(await sufficientAt(20 * HOUR + DAY)).toBe(true)
  })

  test('G2: so is that of a gateway that was declared gone; one that said goodbye has nothing to lose', async () => {
    const rotation = await switchedOver()
    const collector = await collect()
    await through(2 * HOUR, 'gw-1', 'gw-2', 'gw-3')
    await words.leave('gw-2')
    await through(3 * DAY, 'gw-1', 'gw-3')
    await counted()
    await collector.sweep()
    expect(await evidenceOf(rotation)).toMatchObject({ sufficient: true })
    expect(await evidenceOf(rotation)).not.toHaveProperty('usageLostAt')
    const declaredAt = Date.now()
    const propagation = createPropagation({ kafka, topics, db, log, source: '/test' })
    await propagation.declareGone('gw-3')
    await propagation.stop()
    await collector.sweep()
    const { usageLostAt = '', sufficient } = await evidenceOf(rotation)
    expect(Date.parse(usageLostAt)).toBeGreaterThanOrEqual(declaredAt)
    expect(sufficient).toBe(false)
  })
})

describe('alerts', () => {
  test('a silent gateway that alone holds a rotation back: one alert, that names it', async () => {
    const rotation = await switchedOver()
    const other = await monitored(db, { quietPeriodMs: DAY })
    const collector = await collect()
    await through(2 * HOUR, 'gw-1', 'gw-2')
    await counted()
    const sweepAt = async (ms: number): Promise<void> => {
      now = ms
      await through(ms, 'gw-1')
      await collector.sweep()
    }
    await sweepAt(3 * HOUR)
    expect((await evidenceOf(rotation)).silentGateways).toEqual(['gw-2'])
    expect(alerts).toEqual([])
    for (const ms of [HOUR + DAY, 2 * DAY, 3 * DAY]) await sweepAt(ms)
    expect(alerts).toEqual([
      {
        kind: 'gateway-silent',
        credentialId: rotation.credentialId,
        rotationId: rotation.rotationId,
        detail: expect.stringContaining('gw-2'),
      },
    ])
    expect((await evidenceOf(other)).sufficient).toBe(false)
    await through(3 * DAY, 'gw-2')
    await collector.sweep()
    expect((await evidenceOf(rotation)).sufficient).toBe(true)
  })

  test('stragglers late in the overlap window: one alert after half, three quarters, nine tenths of it', async () => {
    const rotation = await switchedOver({ overlapMs: 10 * DAY })
    await setDeadline(db, { ...rotation.by, deadline: at(10 * DAY) })
    const [first, second] = await Promise.all([collect(), collect()])
    const useAt = async (ms: number): Promise<void> => {
      const sources = [{ address: '192.0.2.9', userAgent: 'cron/3', count: 1, lastAt: at(ms).toISOString() }]
      await words.tell(accepted('gw-1', rotation.keyId, at(ms), { sources }))
      await through(ms, 'gw-1')
      await counted()
      await Promise.all([first.sweep(), second.sweep()])
    }
    for (const day of [1, 4.9]) await useAt(day * DAY)
    expect(alerts).toEqual([])
    for (const day of [5, 5.1, 6, 8, 8.1, 9.5, 9.6]) await useAt(day * DAY)
    expect(alerts.map(({ kind, detail }) => [kind, /after (\d+) %/.exec(detail)?.[1]])).toEqual([
      ['straggler', '50'],
      ['straggler', '75'],
      ['straggler', '90'],
    ])
    expect(alerts[0]?.detail).toContain('192.0.2.9 (cron/3)')
    expect(alerts[0]?.detail.length).toBeLessThanOrEqual(500)
  })

  test('replays of a key: who, from where and how many, told at once and then every quarter of an hour at most', async () => {
    const { credentialId, keyId } = await makeCredential(db)
    const [collector, other] = await Promise.all([collect(), collect()])
    const window = (ms: number, counts: Partial<Record<UsageOutcome, number>>): UsageReport[] => {
      const usage = new UsageWindow(at(ms).getTime())
      for (const [outcome, count] of Object.entries(counts) as [UsageOutcome, number][]) {
        for (let i = 0; i < count; i++)
          usage.count(keyId, outcome, at(ms).getTime(), { address: `192.0.2.${i % 4 === 0 ? 8 : 7}`, userAgent: 'curl/8' })
      }
      return [...usage.reports('gw-1' as GatewayId, at(ms + 1).getTime())]
    }
    const sweepAt = async (ms: number, counts: Partial<Record<UsageOutcome, number>>): Promise<void> => {
      now = ms
      await words.tell(...window(ms, counts))
      await counted()
      await Promise.all([collector.sweep(), other.sweep()])
    }
    await sweepAt(0, { accepted: 5, refused: 2 })
    expect(alerts).toEqual([])
    await sweepAt(60_000, { accepted: 2, replayed: 64, stale: 2 })
    expect(alerts).toEqual([{ kind: 'replay', credentialId, detail: expect.stringContaining(keyId) }])
    expect(alerts[0]?.detail).toContain('64 sent before, 2 outside of their window, from')
    expect(alerts[0]?.detail).toMatch(/most from 192\.0\.2\.7 \(curl\/8\), 49 times; 192\.0\.2\.8 \(curl\/8\), 17 times: if/)
    for (const minute of [2, 8, 15]) await sweepAt(minute * 60_000, { 'out-of-order': 1 })
    expect(alerts).toHaveLength(1)
    await sweepAt(16 * 60_000, {})
    expect(alerts[1]?.detail).toContain('refused, 3 out of order, from')
    await sweepAt(2 * HOUR, { accepted: 1 })
    expect(alerts).toHaveLength(2)
    // Whoever replays is not taken for somebody who uses the key.
    const sources = await db.query<{ count: number }>('select sum(count)::int as count from key_sources where key_id = $1', [
      keyId,
    ])
    expect(sources).toEqual([{ count: 5 + 2 + 2 + 1 }])
  })

  test('an alert that Kafka does not take is raised later; a client that has switched over causes none', async () => {
    const quiet = await switchedOver({ overlapMs: 10 * DAY })
    const rotation = await switchedOver({ overlapMs: 10 * DAY })
    for (const { by } of [quiet, rotation]) await setDeadline(db, { ...by, deadline: at(10 * DAY) })
    let takes = false
    const collector = await startCollector({
      kafka,
      topics,
      db,
      watch,
      tell: async () => true,
      alert: async (alert) => {
        if (!takes) throw new Error('Kafka is away')
        alerts.push(alert)
      },
      clock: () => at(now),
      log,
    })
    collectors.push(collector)
    await words.tell(accepted('gw-1', quiet.keyId, at(DAY)), accepted('gw-1', rotation.keyId, at(9 * DAY)))
    await counted()
    await expect(collector.sweep()).rejects.toThrow('Kafka is away')
    takes = true
    await collector.sweep()
    expect(alerts.map(({ rotationId }) => rotationId)).toEqual([rotation.rotationId])
  })
})
