import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { measureBaselines } from '../../bench/baselines.ts'
import { measureClient, measureSwitch } from '../../bench/client.ts'
import { measureFleet } from '../../bench/fleet.ts'
import { type BenchHouse, openHouse } from '../../bench/house.ts'
import { measureLoad } from '../../bench/load.ts'
import { measureNotifications } from '../../bench/notifications.ts'
import { measurePolicies } from '../../bench/policies.ts'
import { measureReplay } from '../../bench/replay.ts'
import {
  baselinesReport,
  clientReport,
  fleetReport,
  loadReport,
  machine,
  notificationsReport,
  policiesReport,
  replayReport,
  requestsReport,
  revocationReport,
  rotationsReport,
  signaturesReport,
  switchReport,
  verifyReport,
  withFigures,
} from '../../bench/report.ts'
import { measureRequests } from '../../bench/requests.ts'
import { measureRevocation } from '../../bench/revocation.ts'
import { measureRotations } from '../../bench/rotations.ts'
import { measureSignatures } from '../../bench/signatures.ts'
import { distribution, quantile } from '../../bench/statistics.ts'
import { measureVerify } from '../../bench/verify.ts'
import { createDatabase } from '../support/servers.ts'

/** Every number in figures, however deep. */
function numbers(figures: unknown): number[] {
  if (typeof figures === 'number') return [figures]
  return typeof figures === 'object' && figures !== null ? Object.values(figures).flatMap(numbers) : []
}

/** Whatever the machine: all of it was measured, and a report can be made of it. */
function expectWhole(figures: object, report: string): void {
  const all = numbers(figures)
  expect(all.length).toBeGreaterThan(0)
  expect(all.filter((value) => !Number.isFinite(value))).toEqual([])
  expect(report).not.toMatch(/NaN|undefined|Infinity/)
}

describe('each measure works', () => {
  let house: BenchHouse

  beforeAll(async () => {
    house = await openHouse({
      postgresUrl: await createDatabase(),
      kafkaBrokers: inject('kafkaBrokers'),
      temporalAddress: inject('temporalAddress'),
    })
  }, 300_000)
  afterAll(() => house.close(), 60_000)

  test('verify', async () => {
    const figures = await measureVerify({ keys: 3_000, rounds: 2, perRound: 128 })
    expectWhole(figures, verifyReport(figures))
  })

  test('requests', async () => {
    const figures = await measureRequests({ keys: 100, rounds: 1, perRound: 200, attackers: 20 })
    expectWhole(figures, requestsReport(figures))
  })

  test('client', async () => {
    const figures = await measureClient({ rounds: 2, perRound: 50 })
    expectWhole(figures, clientReport(figures))
  })

  test('switch: all processes are seen with the new key', async () => {
    const figures = await measureSwitch(house, { processes: 3, perSecond: 30, rounds: 1 })
    expectWhole(figures, switchReport(figures))
    expect([figures.library.failed, figures.agent.failed]).toEqual([0, 0])
  }, 300_000)

  test('replay', async () => {
    const figures = await measureReplay({ nonces: 2_000, rounds: 2, perRound: 100, overRedis: 1_000 })
    expectWhole(figures, replayReport(figures))
  })

  test('signatures', async () => {
    const figures = await measureSignatures({ rounds: 2, perRound: 20 })
    expectWhole(figures, signaturesReport(figures))
  })

  test('load', async () => {
    const figures = await measureLoad(inject('kafkaBrokers'), { keys: 500, rounds: 1 })
    expectWhole(figures, loadReport(figures))
  })

  test('baselines', async () => {
    const figures = await measureBaselines(house, { samples: 2 })
    expectWhole(figures, baselinesReport(figures))
    expect(figures.oneActivityMs.samples).toBe(2)
  })

  test('revocation: every gateway is seen to refuse, and no step is missing', async () => {
    const figures = await measureRevocation(house, { samples: 2 })
    expectWhole(figures, revocationReport(figures))
    expect(Object.keys(figures.gateways)).toEqual(['gateway-1', 'gateway-2', 'gateway-3'])
    const steps = Object.values(figures.steps).reduce((sum, ms) => sum + ms, 0)
    expect(steps).toBeGreaterThan(0)
  }, 300_000)

  test('fleet: every gateway refuses every key', async () => {
    const figures = await measureFleet(house, { keys: 200, rounds: 1 })
    expectWhole(figures, fleetReport(figures))
    expect(figures.refusedMs).toBeGreaterThan(0)
  }, 300_000)

  test('rotations: all of them complete, on the evidence of their clients', async () => {
    const figures = await measureRotations(house, { rotations: 2, atOnce: 2, rounds: 1 })
    expectWhole(figures, rotationsReport(figures))
    expect(figures.activities).toBeGreaterThan(0)
  }, 300_000)

  test('notifications: each arrives once', async () => {
    const figures = await measureNotifications(house, { notifications: 4, atOnce: 2, rounds: 1 })
    expectWhole(figures, notificationsReport(figures))
  }, 300_000)

  test('policies: all that are due are started', async () => {
    const figures = await measurePolicies(house, { credentials: 5, rounds: 1 })
    expectWhole(figures, policiesReport(figures))
  }, 300_000)
})

test('quantiles are values that were measured', () => {
  expect([0, 0.5, 0.9, 1].map((q) => quantile([4, 1, 3, 2], q))).toEqual([1, 2, 4, 4])
  expect(distribution([2, 1, 3])).toEqual({ samples: 3, p50: 2, p90: 3, p99: 3, max: 3 })
  expect(() => quantile([], 0.5)).toThrow(RangeError)
})

describe('the page of figures', () => {
  const page = readFileSync('bench/README.md', 'utf8')
  const names = ['verify', 'replay', 'load', 'baselines', 'revocation', 'leaks', 'scan', 'fleet', 'rotations', 'policies']

  test('has a place for each measure, and changes nothing else', () => {
    const written = names.reduce((text, name) => withFigures(text, name, `figures of ${name}, $1`), page)
    for (const name of names) expect(written).toContain(`<!-- figures: ${name} -->\n\nfigures of ${name}, $1\n\n<!-- end -->`)
    const headings = (text: string) => text.split('\n').filter((line) => line.startsWith('## '))
    expect(headings(written)).toEqual(headings(page))
    expect(() => withFigures(page, 'other', '')).toThrow('no block for other')
  })

  test('names the machine by what it is, and by nothing else', async () => {
    const { hostname, userInfo } = await import('node:os')
    const line = machine(['Kafka 1'], new Date('2026-01-02T03:04:05Z'))
    expect(line).toMatch(/^_2026-01-02: .+, \d+ cores · \d+ GB · .+ · Node\.js \d+\.\d+\.\d+ · Kafka 1_$/)
    for (const secret of [hostname(), userInfo().homedir, process.cwd()]) expect(line).not.toContain(secret)
  })
})
