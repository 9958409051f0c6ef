import { type Policy, termsOf } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { impossible, warnings } from '../../planning/soundness.ts'

const NOW = Date.UTC(2026, 10, 24)
const terms = (policy: Partial<Policy>) => termsOf({ name: 'p', all: true, ...policy })
const said = (policy: Partial<Policy>, count?: number): string[] => warnings(terms(policy), NOW, count)

describe('blackouts that cover everything are refused', () => {
  test.each<Policy['blackout'] & object>([
    [{ timeZone: 'UTC', days: ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] }],
    [
      { timeZone: 'UTC', to: '12:00' },
      { timeZone: 'UTC', from: '12:00' },
    ],
    [
      { timeZone: 'Asia/Tokyo', days: ['sat', 'sun', 'mon'] },
      { timeZone: 'America/New_York', days: ['mon', 'tue', 'wed', 'thu', 'fri'] },
    ],
    [{ timeZone: 'UTC', dates: ['2020-01-01/2040-01-01'] }],
  ])('%j', (...blackout) => {
    expect(impossible(terms({ blackout }), NOW)).toEqual([
      { path: '/blackout', message: 'covers every hour there is: no rotation could ever be started' },
    ])
  })

  test('one open hour a day is enough', () => {
    expect(impossible(terms({ blackout: [{ timeZone: 'UTC', from: '04:00', to: '03:00' }] }), NOW)).toEqual([])
    expect(impossible(terms({}), NOW)).toEqual([])
  })
})

describe('what a policy may not keep is said', () => {
  test.each<[string, Partial<Policy>, number, RegExp]>([
    [
      'a closure longer than a turn',
      { period: '14d', overlap: '2d', blackout: [{ timeZone: 'UTC', dates: ['2026-12-20/2027-01-10'] }] },
      1,
      /^the blackouts leave too little time around 202[67]-\d\d-\d\d: some keys will get older than 14d$/,
    ],
    [
      'an overlap of more than half the period',
      { period: '10d', overlap: '6d' },
      1,
      /^the overlap of 6d is more than half of the period/,
    ],
    [
      'waves that take longer than the period',
      { period: '30d', overlap: '10d', waves: [{ size: 1 }, { size: '10%' }, { size: '100%' }] },
      1,
      /^3 waves, each after the one before has ended/,
    ],
    [
      'a rate that is too slow',
      { rate: '10/h' },
      150_000,
      /^at this rate 150000 credentials take 625d: 92 an hour are needed to keep the period$/,
    ],
    [
      'a concurrency that is too low',
      { concurrency: 100 },
      150_000,
      /^with 150000 credentials up to 30702 rotations are open at once/,
    ],
  ])('%s', (_, policy, count, expected) => {
    expect(said(policy, count)).toEqual([expect.stringMatching(expected)])
  })

  test.each<[Partial<Policy>, number]>([
    [{}, 150_000],
    [{ rate: '100/h' }, 150_000],
    [{ concurrency: 100 }, 10],
    [{ period: '30d', overlap: '3d', waves: [{ size: 1 }, { size: '10%' }, { size: '100%' }] }, 1_000],
    [{ period: '30d', overlap: '3d', blackout: [{ timeZone: 'America/New_York', days: ['sat', 'sun'] }] }, 1_000],
    [
      { blackout: [{ timeZone: 'Europe/Zurich', dates: ['12-20', '12-21', '12-22', '12-23', '12-24', '12-25', '12-26'] }] },
      1_000,
    ],
  ])('and of %j nothing', (policy, count) => expect(said(policy, count)).toEqual([]))
})
