import { KEY_STATES, type KeyRecord, type KeyState } from '@keyturn/contract'
import { KeyCache } from '@keyturn/gateway'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sha256Of } from '../support/shown.ts'
import { issueKey } from './support.ts'

/** What a cache holds, without regard to the order in which it came. */
const contents = (cache: KeyCache) =>
  [...cache.entries()].map(({ keyId, state, revision }) => `${keyId} ${state} ${revision}`).sort()

const states = (cache: KeyCache) => Object.fromEntries([...cache.countsByState()].filter(([, count]) => count > 0))

/** The life of one key: revision n+1 is in the n-th state. */
const life = (through: readonly KeyState[]): KeyRecord[] => {
  const { record } = issueKey()
  return through.map((state, i) => ({ ...record, state, revision: i + 1 }))
}

const liveState = fc.constantFrom(...KEY_STATES.filter((state) => state !== 'destroyed'))

describe('G4: the cache converges', () => {
  test('G4: whatever the order and however often events come, the highest revision of each key is held', () => {
    const lives = fc.array(fc.array(liveState, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 5 })
    const property = fc.property(lives, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (through, dice) => {
      const keys = through.map(life)
      const events = keys.flat()
      const shuffled = [...events, ...events, ...events.slice(0, 3)]
        .map((event) => ({ event, at: dice.next().value }))
        .sort((a, b) => a.at - b.at)
        .map(({ event }) => event)
      const cache = new KeyCache()
      for (const event of shuffled) cache.apply(event)
      const expected = keys.map((key) => key.at(-1)).map((last) => `${last?.keyId} ${last?.state} ${last?.revision}`)
      expect(contents(cache)).toEqual(expected.sort())
      const counted = [...cache.countsByState().values()].reduce((a, b) => a + b, 0)
      expect(counted).toBe(keys.length)
    })
    fc.assert(property, { numRuns: 200 })
  })

  test('G4: a destroyed key stays gone in whatever order its events and its tombstone come', () => {
    const steps = fc.shuffledSubarray([0, 1, 2, 3, 'tombstone'] as const, { minLength: 1 })
    fc.assert(
      fc.property(steps, (order) => {
        const cache = new KeyCache()
        const events = life(['active', 'suspended', 'active', 'deactivated'])
        const [first] = events
        if (first === undefined) return
        for (const step of order) {
          if (step === 'tombstone') cache.destroy(first.keyId)
          else cache.apply(events[step] ?? first)
        }
        const gone = order.includes('tombstone')
        expect(cache.get(first.keyId) === undefined).toBe(gone)
        expect(cache.find(sha256Of(first)) === undefined).toBe(gone)
      }),
    )
  })

  test('G4: an event with the state destroyed removes the key as a tombstone does', () => {
    const cache = new KeyCache()
    const [active, destroyed] = life(['active', 'destroyed'])
    if (active === undefined || destroyed === undefined) throw new Error('no life')
    cache.apply(active)
    cache.apply(destroyed)
    expect(cache.size).toBe(0)
    expect(cache.apply({ ...active, revision: 9 })).toBe('destroyed-key')
    expect(states(cache)).toEqual({})
  })

  test('tells why nothing changed', () => {
    const cache = new KeyCache()
    const [one, two] = life(['active', 'suspended'])
    if (one === undefined || two === undefined) throw new Error('no life')
    expect([cache.apply(two), cache.apply(two), cache.apply(one)]).toEqual(['applied', 'same-revision', 'older-revision'])
    expect(cache.apply({ ...issueKey().record, verifier: one.verifier })).toBe('verifier-taken')
    expect(cache.find(sha256Of(one))?.keyId).toBe(one.keyId)
  })

  test('a new verifier replaces the old one', () => {
    const cache = new KeyCache()
    const { record } = issueKey()
    const other = issueKey().record
    cache.apply(record)
    cache.apply({ ...record, revision: 2, verifier: other.verifier })
    expect(cache.find(sha256Of(record))).toBeUndefined()
    expect(cache.find(sha256Of(other))?.revision).toBe(2)
  })
})

describe('a reload', () => {
  test('G4: removes keys that the log no longer names, and keeps serving them until its end', () => {
    const cache = new KeyCache()
    const [gone, kept] = [issueKey().record, issueKey().record]
    cache.apply(gone)
    cache.apply(kept)
    cache.beginReload()
    cache.apply(kept)
    expect(cache.size).toBe(2)
    expect(cache.endReload()).toBe(1)
    expect(contents(cache)).toEqual([`${kept.keyId} active 1`])
    expect(cache.apply(gone)).toBe('applied')
  })

  test('keeps every key when the log named none: then the log was lost, not the keys', () => {
    const cache = new KeyCache()
    cache.apply(issueKey().record)
    cache.beginReload()
    expect(cache.endReload()).toBe(0)
    expect(cache.size).toBe(1)
  })
})

test('equal client ids and scope lists are one string and one list in memory', () => {
  const cache = new KeyCache()
  const { record } = issueKey({ scopes: ['a:read', 'b:write'] })
  const other = issueKey({ clientId: record.clientId, scopes: ['a:read', 'b:write'] }).record
  cache.apply(record)
  cache.apply(other)
  expect(cache.get(record.keyId)?.scopes).toBe(cache.get(other.keyId)?.scopes)
})
