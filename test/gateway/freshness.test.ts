import { describe, expect, test } from 'vitest'
import { FreshnessTracker } from '../../gateway/src/freshness.ts'
import { atOnce } from '../support/at-once.ts'
import { bearer, eventually, forwardKafka, issueKey, keyMessage, NOW, openBench, TestClock } from './support.ts'

const at = (...offsets: [number, number][]) => new Map(offsets)

describe('G3: what counts as fresh', () => {
  test('G3: fresh as of the asking, once all that was there then is applied', () => {
    const tracker = new FreshnessTracker(1_000)
    tracker.asked(100, at([0, 5], [1, 2]))
    expect(tracker.reached(at([0, 5], [1, 1]))).toBe(false)
    expect(tracker.judge(100)).toBe('loading')
    expect(tracker.reached(at([0, 6], [1, 2]))).toBe(true)
    expect(tracker.asOf).toBe(100)
    expect([tracker.judge(1_100), tracker.judge(1_101)]).toEqual(['fresh', 'stale'])
  })

  test('G3: questions are answered in turn; a partition never read counts as not reached', () => {
    const tracker = new FreshnessTracker(1_000)
    tracker.asked(100, at([0, 5]))
    tracker.asked(200, at([0, 9]))
    tracker.asked(300, at([0, 9], [1, 1]))
    tracker.reached(at([0, 7]))
    expect([tracker.asOf, tracker.waitingSince]).toEqual([100, 200])
    tracker.reached(at([0, 9]))
    expect([tracker.asOf, tracker.waitingSince]).toEqual([200, 300])
  })

  test('G3: a clock that was set back does not make old knowledge new', () => {
    const tracker = new FreshnessTracker(1_000)
    tracker.asked(NOW, at())
    tracker.reached(at())
    expect([tracker.judge(NOW - 500), tracker.judge(NOW - 60_000)]).toEqual(['fresh', 'stale'])
  })
})

describe('G3: a gateway that does not hear from Kafka', () => {
  test.each(['cut', 'swallow'] as const)(
    'G3: serves on and says so loudly, refuses what is failClosed, and recovers (%s)',
    async (how) => {
      const bench = await openBench()
      const kafka = await forwardKafka()
      const clock = new TestClock()
      const orders = issueKey({ scopes: ['orders:read'] })
      const trade = issueKey({ scopes: ['trade:write'] })
      await bench.publish(keyMessage(orders.record), keyMessage(trade.record))
      const gateway = bench.gateway({
        kafka: { brokers: [kafka.address], topics: bench.topics },
        clock: clock.read,
        failClosed: ['trade:*'],
        stalenessMs: 1_200,
      })
      const ask = () =>
        [orders, trade].map(({ token }) => {
          const answer = atOnce(gateway.authenticate(bearer(token)))
          return answer.accepted ? 200 : answer.problem.status
        })
      await gateway.start()
      expect(ask()).toEqual([200, 200])

      kafka[how]()
      clock.now += 1_201
      // At once, by the clock alone: no timer has run since.
      expect(gateway.status().freshness).toBe('stale')
      expect(ask()).toEqual([200, 503])
      await eventually('it says so', bench.logged, (logged) => logged.includes('STALE'))
      expect(
        JSON.parse(
          bench
            .logged()
            .split('\n')
            .find((line) => line.includes('STALE')) ?? '',
        ),
      ).toMatchObject({ level: 50 })

      await bench.publish(keyMessage({ ...orders.record, revision: 2, state: 'deactivated' }))
      kafka.restore()
      await eventually(
        'it recovers',
        () => gateway.status().freshness,
        (freshness) => freshness === 'fresh',
      )
      await eventually('the event is applied', ask, ([status]) => status === 401)
      expect(ask()).toEqual([401, 200])
      await eventually('it says that, too', bench.logged, (logged) => logged.includes('fresh again'))
    },
  )

  test('G3: freshness follows the clock of the asking, question by question', async () => {
    const bench = await openBench()
    const clock = new TestClock()
    const gateway = bench.gateway({ clock: clock.read, stalenessMs: 600 })
    await gateway.start()
    const before = Date.parse(gateway.status().freshAsOf ?? '')
    clock.now += 10_000
    await eventually(
      'it is fresh as of the new time',
      () => gateway.status().freshAsOf,
      (asOf) => Date.parse(asOf ?? '') > before,
    )
    expect(gateway.status().freshAsOf).toBe(new Date(clock.now).toISOString())
  })

  test('starts when Kafka comes, however late, and answers 503 until then', async () => {
    const bench = await openBench()
    const kafka = await forwardKafka()
    kafka.cut()
    const { record, token } = issueKey()
    await bench.publish(keyMessage(record))
    const gateway = bench.gateway({ kafka: { brokers: [kafka.address], topics: bench.topics } })
    const started = gateway.start()
    await eventually('it tries', bench.logged, (logged) => logged.includes('could not be sent'))
    const answer = atOnce(gateway.authenticate(bearer(token)))
    expect(answer).toMatchObject({ accepted: false, problem: { code: 'gateway-undecided' } })
    expect(answer.responseHeaders).toHaveProperty('retry-after')
    kafka.restore()
    await started
    expect(atOnce(gateway.authenticate(bearer(token))).accepted).toBe(true)
  })
})
