/** Whole years of a policy's life, told ahead. With KEYTURN_TEST_LONG=1 for 150,000 credentials, otherwise for fewer. */
import { type Policy, termsOf } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { closedSpans } from '../../planning/blackouts.ts'
import { type Member, simulate } from '../../planning/simulate.ts'

const LONG = process.env['KEYTURN_TEST_LONG'] !== undefined
const COUNT = LONG ? 150_000 : 20_000
const TIMEOUT_MS = 20 * 60_000
const HOUR = 3_600_000
const DAY = 24 * HOUR
const STEP_MS = HOUR / 4
/** Over the turn of two years and a leap day. */
const FROM = Date.UTC(2027, 9, 1)
const TO = FROM + 366 * DAY

/** A generator with a seed, so that a run can be repeated (mulberry32). */
function randoms(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Credentials at random places, with keys of an age from `youngestMs` to `oldestMs`. */
function population(count: number, [youngestMs, oldestMs]: readonly [number, number]): Member[] {
  const random = randoms(count + oldestMs)
  return Array.from({ length: count }, () => ({
    place: random(),
    createdAt: FROM - youngestMs - Math.floor(random() * (oldestMs - youngestMs)),
  }))
}

interface Year {
  readonly starts: number
  readonly perHour: Uint32Array
  readonly oldestMs: number
  /** When each key was made, at the end. */
  readonly members: Member[]
}

function live(policy: Policy, members: readonly Member[], from = FROM, to = TO): Year {
  const perHour = new Uint32Array(Math.ceil((to - from) / HOUR))
  const after = members.map((member) => ({ ...member }))
  let [starts, oldestMs] = [0, 0]
  simulate(termsOf(policy), members, { from, to, stepMs: STEP_MS }, ({ member, at, ageMs }) => {
    starts += 1
    oldestMs = Math.max(oldestMs, ageMs)
    const hour = Math.floor((at - from) / HOUR)
    perHour[hour] = (perHour[hour] ?? 0) + 1
    const each = after[member]
    if (each !== undefined) after[member] = { ...each, createdAt: at }
  })
  return { starts, perHour, oldestMs, members: after }
}

const openHours = (policy: Policy): number =>
  (TO -
    FROM -
    closedSpans(policy.blackout ?? [], { from: FROM, to: TO }).reduce(
      (sum, { from, to }) => sum + Math.min(to, TO) - Math.max(from, FROM),
      0,
    )) /
  HOUR

const PLAIN: Policy = { name: 'plain', all: true, period: '90d', overlap: '14d' }
const TRADING: Policy = {
  name: 'trading',
  all: true,
  period: '30d',
  overlap: '3d',
  blackout: [
    { days: ['sat', 'sun'], timeZone: 'America/New_York', holidays: ['12-25', '01-01', '02-29'] },
    { days: ['mon', 'tue', 'wed', 'thu', 'fri'], from: '09:30', to: '16:00', timeZone: 'America/New_York' },
  ],
}
const IN_WAVES: Policy = { ...TRADING, name: 'waves', waves: [{ size: 1 }, { size: '10%' }, { size: '100%' }] }

describe(`a year of ${COUNT} credentials`, () => {
  test.each<[string, Policy, readonly [number, number]]>([
    ['that were made over the last weeks', PLAIN, [0, 60 * DAY]],
    ['that were all imported on the same day', PLAIN, [0, HOUR]],
    ['of traders: never at the weekend, on holidays or while New York trades', TRADING, [0, HOUR]],
    ['of traders, in waves', IN_WAVES, [0, 20 * DAY]],
  ])('%s: none exceeds its period, and no hour has more than twice the mean', { timeout: TIMEOUT_MS }, (_, policy, ages) => {
    const { periodMs, rotation } = termsOf(policy)
    const year = live(policy, population(COUNT, ages))
    expect(year.oldestMs + rotation.overlapMs).toBeLessThan(periodMs)
    // Each of them several times.
    expect(year.starts).toBeGreaterThan((COUNT * (TO - FROM)) / periodMs)
    const mean = year.starts / openHours(policy)
    expect(Math.max(...year.perHour)).toBeLessThanOrEqual(2 * mean + 1)
    const closed = closedSpans(policy.blackout ?? [], { from: FROM, to: TO })
    for (const { from, to } of closed) {
      // Whole hours that are closed: nothing is started in them.
      for (let hour = Math.ceil((from - FROM) / HOUR); FROM + (hour + 1) * HOUR <= to; hour++)
        expect(year.perHour[hour] ?? 0).toBe(0)
    }
  })
})

describe('after Keyturn was down for a week', () => {
  test('it catches up without a stampede, and no key gets older than its period', { timeout: TIMEOUT_MS }, () => {
    const before = live(PLAIN, population(COUNT, [0, 60 * DAY]), FROM, FROM + 100 * DAY)
    const back = FROM + 107 * DAY
    const after = live(PLAIN, before.members, back, back + 30 * DAY)
    const mean = (COUNT / ((termsOf(PLAIN).periodMs - termsOf(PLAIN).rotation.overlapMs) * 0.9)) * HOUR
    expect(Math.max(...after.perHour)).toBeLessThanOrEqual(2 * mean + 1)
    expect(after.oldestMs).toBeLessThan(90 * DAY)
    // At twice the mean a week is caught up in a week; after that it is as it ever was.
    const perDay = Array.from({ length: 30 }, (_, day) => after.perHour.slice(day * 24, day * 24 + 24).reduce((a, b) => a + b, 0))
    expect(perDay[3]).toBeGreaterThan(1.9 * mean * 24)
    expect(perDay[12]).toBeLessThan(1.3 * mean * 24)
  })
})

test('a policy that comes upon old keys works through them at its rate', () => {
  const old = population(500, [300 * DAY, 400 * DAY])
  const year = live({ ...PLAIN, rate: '20/h' }, old, FROM, FROM + 3 * DAY)
  expect(Math.max(...year.perHour)).toBeLessThanOrEqual(21)
  expect(year.starts).toBeGreaterThanOrEqual(500)
})
