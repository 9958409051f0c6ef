import { readFileSync } from 'node:fs'
import {
  byPrecedence,
  checkPolicy,
  checkPolicyFile,
  DEFAULT_POLICY,
  flawText,
  type Policy,
  parseRate,
  type Selector,
  termsOf,
} from '@keyturn/contract'
import { jsonSchemas } from '@keyturn/contract/asyncapi'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'

const DAY = 86_400_000
const HOUR = 3_600_000

const flawsOf = (policy: object): string[] => {
  const checked = checkPolicy({ name: 'p', all: true, ...policy })
  return checked.ok ? [] : checked.flaws.map(flawText)
}

const ISSUE = `
policies:
  - name: trading
    select: {environment: prod, scope: "trade:*"}
    period: 30d
    overlap: 3d
    quietPeriod: 24h
    onDeadline: hold
    blackout: [{days: [sat, sun], timeZone: America/New_York}]
    waves: [{size: 1}, {size: 10%}, {size: 100%}]
`

describe('a policy file', () => {
  test('is read as people write it', () => {
    const checked = checkPolicyFile(parse(ISSUE))
    expect(checked.ok).toBe(true)
    const [policy] = checked.ok ? checked.value : []
    expect(policy === undefined ? undefined : termsOf(policy)).toEqual({
      name: 'trading',
      periodMs: 30 * DAY,
      rotation: {
        ...DEFAULT_POLICY,
        name: 'trading',
        overlapMs: 3 * DAY,
        quietPeriodMs: DAY,
        extendByMs: 3 * DAY,
        reminders: [0.5, 0.75, 0.9],
      },
      blackout: [{ days: ['sat', 'sun'], timeZone: 'America/New_York' }],
      waves: [{ count: 1 }, { share: 0.1 }, { share: 1 }],
      stopAbove: 0.1,
    })
  })

  test('the example in the documentation is sound, also by the schema for editors', () => {
    const example: unknown = parse(readFileSync(new URL('../../docs/examples/policies.yaml', import.meta.url), 'utf8'))
    expect(checkPolicyFile(example)).toMatchObject({ ok: true })
    const validate = new Ajv2020({ strict: true, allowUnionTypes: true }).compile(jsonSchemas()['policies'] ?? {})
    expect(validate(example), JSON.stringify(validate.errors)).toBe(true)
    expect(validate({ policies: [{ name: 'a', all: true, perod: '3d' }] })).toBe(false)
  })

  test('no two policies have one name', () => {
    const checked = checkPolicyFile({
      policies: [
        { name: 'a', all: true },
        { name: 'b', all: true },
        { name: 'a', all: true },
      ],
    })
    expect(checked.ok ? [] : checked.flaws.map(flawText)).toEqual([
      'policy "a", policies.2.name: policy 1 in the file has this name too: give each its own',
    ])
  })

  test('every flaw of every policy is said, with the policy and the field', () => {
    const checked = checkPolicyFile({
      policies: [{ name: 'a', all: true, overlap: '3 days' }, { name: 'b', period: '10d' }, 5],
      more: 1,
    })
    expect(checked.ok ? [] : checked.flaws.map(flawText)).toEqual([
      'more: is not a field here',
      'policy "a", policies.0.overlap: must be a duration: 14d, 36h or P14D',
      'policy "b", policies.1.select: would select every credential there is: say which, or write "all: true" in its place',
      'policies.2: must be a policy: name, select, period…',
    ])
  })

  test.each([null, [], 'policies', {}, { policies: {} }])('%j is none', (value) => {
    const checked = checkPolicyFile(value)
    expect(checked.ok ? [] : checked.flaws.map(flawText)).toEqual(['policies: must be there, with a list of policies'])
  })
})

describe('a policy is refused with a word on what to do', () => {
  test.each<[object, string]>([
    [{ perod: '3d' }, 'perod: is not a field here'],
    [{ thresholds: { refusals: 3 } }, 'thresholds.refusals: is not a field here'],
    [{ period: 'a month' }, 'period: must be a duration: 14d, 36h or P14D'],
    [{ period: 30 }, 'period: must be a duration: 14d, 36h or P14D'],
    [{ overlap: '-3d' }, 'overlap: must be a duration: 14d, 36h or P14D'],
    [{ overlap: '0s' }, 'overlap: must be longer than zero'],
    [{ quietPeriod: '40000d' }, 'quietPeriod: a duration is at most 36500d'],
    [{ receiptWait: '12h1s' }, 'receiptWait: must not be longer than 12h: people have to hear of a gateway that is silent'],
    [{ period: '200d' }, 'period: must be 180d or less, unless the policy says "allowLongPeriod: true"'],
    [{ period: '4000d', allowLongPeriod: true }, 'period: must be 3650d or less'],
    [{ period: '12h' }, 'period: must be 1d or more'],
    [{ overlap: '91d' }, 'overlap: must be shorter than the period of 90d: the key would be due again before it is in use'],
    [
      { period: '3d', overlap: '3d' },
      'overlap: must be shorter than the period of 3d: the key would be due again before it is in use',
    ],
    [
      { overlap: '1d', quietPeriod: '25h' },
      'quietPeriod: must not be longer than the overlap of 1d: the old key could never be quiet long enough',
    ],
    [
      { expiry: '80d' },
      'expiry: must not be shorter than the period of 90d (90d unless given): keys would expire before they are replaced',
    ],
    [{ reminders: ['100%'] }, 'reminders.0: must be more than 0% and less than 100%'],
    [{ reminders: [50] }, 'reminders.0: must be a share: 10%'],
    [
      { onDeadline: 'force', approvals: 'deactivating' },
      'approvals: force would not wait for it: take another onDeadline, or leave approvals out',
    ],
    [{ onDeadline: 'never' }, 'onDeadline: must be one of: hold, extend, force'],
    [{ onLeak: 'soon' }, 'onLeak: must be atOnce, or a duration: 14d, 36h or P14D'],
    [{ waves: [{ size: '100%' }, { size: 1 }] }, 'waves.1.size: nothing is left for this wave: the ones before it take 100%'],
    [{ waves: [{ size: '0%' }] }, 'waves.0.size: must be more than 0%'],
    [{ waves: [{ size: 'some' }] }, 'waves.0.size: must be a whole number, or a share: 10%'],
    [{ stopAbove: 0.2 }, 'stopAbove: must be a share: 10%'],
    [{ rate: '100' }, 'rate: must be a rate: 100/h, 2/m'],
    [{ concurrency: 0 }, 'concurrency: must be >= 1'],
    [
      { blackout: [{ timeZone: 'America/New_Amsterdam', days: ['sat'] }] },
      'blackout.0.timeZone: "America/New_Amsterdam" is not a time zone: write one of the IANA database, like America/New_York',
    ],
    [{ blackout: [{ timeZone: '+01:00', days: ['sat'] }] }, 'blackout.0.timeZone: must be a time zone: America/New_York'],
    [{ blackout: [{ days: ['sat'] }] }, 'blackout.0.timeZone: is missing'],
    [{ blackout: [{ timeZone: 'UTC', dates: ['2027-02-29'] }] }, 'blackout.0.dates.0: there is no 2027-02-29'],
    [{ blackout: [{ timeZone: 'UTC', holidays: ['02-30'] }] }, 'blackout.0.holidays.0: there is no 02-30'],
    [
      { blackout: [{ timeZone: 'UTC', dates: ['2027-01-03/2026-12-20'] }] },
      'blackout.0.dates.0: ends before it begins: write 2026-12-20/2027-01-03',
    ],
    [
      { blackout: [{ timeZone: 'UTC' }] },
      'blackout.0: would cover every hour there is: say which days, dates, holidays or times',
    ],
    [
      { blackout: [{ timeZone: 'UTC', days: ['mon'], from: '10:00', to: '10:00' }] },
      'blackout.0.to: must not be the same as from: leave both out for whole days',
    ],
    [{ select: { environment: 'prod' } }, 'all: does not go together with select: keep one of them'],
    [
      { all: undefined, select: {} },
      'select: would select every credential there is: say which, or write "all: true" in its place',
    ],
    [
      { all: undefined, select: { environment: 'staging' } },
      'select.environment: must be one of: dev, test, prod, or a list of such',
    ],
    [{ all: undefined, select: { scope: 'Trade' } }, 'select.scope: must be a scope: trade:*, or a list of such'],
    [{ all: undefined, select: { labels: { team: 'a b' } } }, 'select.labels.team: must be a word without spaces, commas and ='],
  ])('%j', (policy, flaw) => {
    // Undefined stands for a field that is left out.
    const given = Object.fromEntries(
      Object.entries({ name: 'p', all: true, ...policy }).filter(([, value]) => value !== undefined),
    )
    const checked = checkPolicy(given)
    expect(checked.ok ? [] : checked.flaws.map(flawText)).toEqual([`policy "p", ${flaw}`])
  })

  test.each<object>([
    { period: '365d', allowLongPeriod: true },
    { overlap: 'P14D', quietPeriod: 'PT36H' },
    { blackout: [{ timeZone: 'Europe/Zurich', holidays: ['02-29', '2028-02-29'] }] },
    { blackout: [{ timeZone: 'UTC', from: '22:00', to: '06:00' }] },
    { blackout: [{ timeZone: 'UTC', to: '24:00', from: '09:30' }] },
    { waves: [{ size: 1 }, { size: '10%' }, { size: '90%' }] },
    { approvals: 'introducing', onDeadline: 'force' },
    { onLeak: '0s' },
  ])('%j is sound', (policy) => expect(flawsOf(policy)).toEqual([]))
})

describe('terms', () => {
  const terms = (policy: Partial<Policy>) => termsOf({ name: 'p', all: true, ...policy })

  test('what is not said shrinks to what is', () => {
    expect(terms({ period: '10d' }).rotation).toMatchObject({ overlapMs: 2 * DAY, quietPeriodMs: DAY, extendByMs: 2 * DAY })
    expect(terms({ period: '10d', overlap: '6h' }).rotation).toMatchObject({ quietPeriodMs: 6 * HOUR, extendByMs: 6 * HOUR })
    expect(terms({}).rotation).toEqual({ ...DEFAULT_POLICY, name: 'p', reminders: [0.5, 0.75, 0.9] })
  })

  test('rates, leaks, reminders', () => {
    expect(parseRate('100/h')).toBe(100)
    expect(parseRate('2/m')).toBe(120)
    expect(parseRate('5/s')).toBe(18_000)
    expect(parseRate('48/d')).toBe(2)
    expect(terms({ onLeak: 'atOnce' }).onLeakMs).toBe(0)
    expect(terms({ onLeak: '60m' }).onLeakMs).toBe(HOUR)
    expect('onLeakMs' in terms({})).toBe(false)
    expect(terms({ reminders: [] }).rotation.reminders).toEqual([])
  })
})

describe('which policy wins', () => {
  const named = (name: string, select?: Selector): Policy => ({ name, ...(select === undefined ? { all: true } : { select }) })
  const order = (...policies: Policy[]): string[] => byPrecedence(policies).map(({ name }) => name)

  test('a client beats labels, labels beat scopes, scopes beat the environment, anything beats all', () => {
    const client = 'cli_0123456789abcdef'
    expect(
      order(
        named('all'),
        named('environment', { environment: 'prod' }),
        named('scope', { scope: 'trade:*' }),
        named('scope-environment', { scope: 'trade:*', environment: 'prod' }),
        named('label', { labels: { team: 'fx' } }),
        named('two-labels', { labels: { team: 'fx', desk: 'ny' } }),
        named('client', { client }),
        named('client-label', { client, labels: { team: 'fx' } }),
      ),
    ).toEqual(['client-label', 'client', 'two-labels', 'label', 'scope-environment', 'scope', 'environment', 'all'])
  })

  test('of two that say as much, the one that stands first', () => {
    expect(order(named('b', { scope: 'trade:*' }), named('a', { scope: 'trade:write' }))).toEqual(['b', 'a'])
  })
})
