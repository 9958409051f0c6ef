/** The replay guard of one process: what it accepts, what it remembers, and what it does when it can not. */
import { createLog } from '@keyturn/gateway'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MemoryGuard, type MemoryGuardOptions } from '../../../gateway/src/replay/memory.ts'
import { NOW } from '../support.ts'

const WINDOW_MS = 60_000
const S = NOW / 1_000
const log = createLog('silent')

const guardOf = (options: Partial<MemoryGuardOptions> = {}): MemoryGuard =>
  new MemoryGuard({ windowMs: WINDOW_MS, capacity: 10_000, reorder: 16, startedAt: 0, failOpen: () => false, log, ...options })

const request = (nonce: string, created = S, sequence?: number, keyId = 'A'.repeat(16)) => ({
  keyId,
  nonce,
  created,
  scopes: ['trade:orders'],
  ...(sequence === undefined ? {} : { sequence }),
})

test('a nonce counts once per key', () => {
  const guard = guardOf()
  expect(guard.check(request('n1'), NOW)).toBe('fresh')
  expect(guard.check(request('n1'), NOW)).toBe('replayed')
  expect(guard.check(request('n1', S + 1), NOW + 1_000), 'signed anew with the same nonce').toBe('replayed')
  expect(guard.check(request('n2'), NOW)).toBe('fresh')
  expect(guard.check(request('n1', S, undefined, 'B'.repeat(16)), NOW)).toBe('fresh')
})

test('clock skew both ways: the future is 5 s long, the past as long as the window', () => {
  const guard = guardOf()
  expect(guard.check(request('a', S + 5), NOW)).toBe('fresh')
  expect(guard.check(request('b', S + 6), NOW)).toBe('replayed')
  expect(guard.check(request('c', S - 60), NOW)).toBe('fresh')
  expect(guard.check(request('d', S - 61), NOW)).toBe('replayed')
  expect(guard.check(request('a', S + 5), NOW + 64_999), 'remembered as long as it is timely').toBe('replayed')
})

test('a clock that is set back brings nothing back that was forgotten', () => {
  const guard = guardOf()
  expect(guard.check(request('old'), NOW)).toBe('fresh')
  expect(guard.check(request('new', S + 200), NOW + 200_000)).toBe('fresh')
  expect(guard.check(request('old'), NOW)).toBe('replayed')
})

test('a process that has just begun does not know what the one before accepted, and says so', () => {
  const guard = guardOf({ startedAt: NOW })
  expect(guard.check(request('before', S - 10), NOW + 1_000)).toBe('unavailable')
  expect(guard.check(request('fast clock', S + 5), NOW + 1_000)).toBe('unavailable')
  expect(guard.check(request('after', S + 6), NOW + 1_000)).toBe('fresh')
  const open = guardOf({ startedAt: NOW, failOpen: () => true })
  expect(open.check(request('before', S - 10), NOW)).toBe('fresh')
  expect(open.check(request('before', S - 10), NOW)).toBe('replayed')
})

test('when it is full it refuses, forgets nothing, and has room again after the window', () => {
  const guard = guardOf({ capacity: 1_000 })
  for (let i = 0; i < 1_000; i++) expect(guard.check(request(`n${i}`), NOW)).toBe('fresh')
  expect(guard.check(request('one more'), NOW)).toBe('full')
  for (let i = 0; i < 1_000; i++) expect(guard.check(request(`n${i}`), NOW + 30_000)).toBe('replayed')
  expect(guard.held).toBe(1_000)
  const later = NOW + 2 * WINDOW_MS
  expect(guard.check(request('later', later / 1_000), later)).toBe('fresh')
  expect(guard.held).toBe(1)
})

describe('sequences', () => {
  test('rise, and may overtake each other a little; each number counts once', () => {
    const guard = guardOf({ reorder: 2 })
    const verdicts = [10, 12, 11, 12, 10, 9, 100, 98, 97, 99].map((n, i) => guard.check(request(`n${i}`, S, n), NOW))
    expect(verdicts).toEqual([
      ...['fresh', 'fresh', 'fresh', 'out-of-order', 'out-of-order', 'out-of-order'],
      ...['fresh', 'fresh', 'out-of-order', 'fresh'],
    ])
  })
  test('a refused request uses up neither its nonce nor its number', () => {
    const guard = guardOf({ reorder: 0 })
    expect(guard.check(request('a', S, 5), NOW)).toBe('fresh')
    expect(guard.check(request('b', S, 5), NOW)).toBe('out-of-order')
    expect(guard.check(request('b', S, 6), NOW)).toBe('fresh')
    expect(guard.check(request('b', S, 7), NOW)).toBe('replayed')
    expect(guard.check(request('c', S, 7), NOW)).toBe('fresh')
    for (const wrong of [-1, 1.5, Number.NaN, 2 ** 53]) expect(guard.check(request('d', S, wrong), NOW)).toBe('out-of-order')
  })
  test('the order of a silent key makes room for nonces, that of one in use does not', () => {
    const guard = guardOf({ capacity: 4 })
    expect(guard.check(request('a', S, 1, 'X'), NOW)).toBe('fresh')
    expect(guard.check(request('b', S, 1, 'Y'), NOW)).toBe('fresh')
    expect(guard.check(request('c'), NOW)).toBe('full')
    const later = NOW + 2 * WINDOW_MS
    for (const nonce of ['d', 'e', 'f', 'g']) expect(guard.check(request(nonce, later / 1_000), later)).toBe('fresh')
    expect(guard.check(request('h', later / 1_000), later)).toBe('full')
    expect(guard.held).toBe(4)
  })
  test('the order of a silent key is kept for as long as what it signed before, by a clock that is ahead, could still be accepted', () => {
    const guard = guardOf({ capacity: 2 })
    expect(guard.check(request('a', S + 5, 2, 'X'), NOW)).toBe('fresh')
    const later = NOW + WINDOW_MS + 5_000
    expect(guard.check(request('b', later / 1_000, undefined, 'Y'), later)).toBe('full')
    expect(guard.check(request('c', S + 5, 1, 'X'), later)).toBe('full')
    expect(guard.check(request('b', later / 1_000, undefined, 'Y'), later + 1)).toBe('fresh')
    expect(guard.check(request('c', S + 5, 1, 'X'), later + 1)).toBe('replayed')
  })
})

/** Requests in any order, some again and again, while time passes, sometimes jumps, and is sometimes set back. */
const story = fc.array(
  fc.record({
    passes: fc.oneof(
      { weight: 8, arbitrary: fc.nat(3_000) },
      { weight: 1, arbitrary: fc.integer({ min: -20_000, max: 90_000 }) },
    ),
    nonce: fc.nat(30).map(String),
    key: fc.constantFrom('X', 'Y'),
    age: fc.integer({ min: -8, max: 70 }),
    sequence: fc.option(fc.nat(60), { nil: undefined }),
  }),
  { minLength: 1, maxLength: 300 },
)

test('property: whatever comes, no request is accepted twice, no number twice, and the bound holds', () => {
  const capacity = 25
  fc.assert(
    fc.property(story, fc.nat(31), (steps, reorder) => {
      const guard = guardOf({ capacity, reorder })
      const accepted = new Map<string, number>()
      let now = NOW
      let latest = NOW
      for (const { passes, nonce, key, age, sequence } of steps) {
        now += passes
        latest = Math.max(latest, now)
        const created = Math.floor(now / 1_000) - age
        const verdict = guard.check(request(nonce, created, sequence, key), now)
        expect(guard.held).toBeLessThanOrEqual(capacity)
        if (verdict !== 'fresh') continue
        // A nonce may come again only when the request that used it could not any more.
        const before = accepted.get(`${key} ${nonce}`)
        if (before !== undefined) expect(created - before).toBeGreaterThan(0)
        if (before !== undefined) expect(now - before * 1_000).toBeGreaterThan(WINDOW_MS)
        accepted.set(`${key} ${nonce}`, created)
        if (sequence === undefined) continue
        // A number may come again only after its key was silent for so long that its order made room for others.
        const used = accepted.get(`${key} #${sequence}`)
        if (used !== undefined) expect(latest - used).toBeGreaterThan(WINDOW_MS)
        accepted.set(`${key} #${sequence}`, now)
      }
    }),
    { numRuns: 300 },
  )
})
