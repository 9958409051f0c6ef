/** Which keys a client's store has, by what the registry says of them: never by what was written there before. */
import { memoryStore, type StoredCredential, type StoredKey } from '@keyturn/client'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { deposit, settle } from '../../../activities/stores/deposit.ts'

const CREDENTIAL = 'crd_4jK2mN8pQ0rS6tU1'
const { signal } = new AbortController()
const key = (version: number): StoredKey => ({ keyId: `key_${version}`, version, kind: 'bearer', token: `token ${version}` })
const holding = (current: number, previous?: number): StoredCredential => ({
  format: 1,
  credentialId: CREDENTIAL,
  current: key(current),
  ...(previous === undefined ? {} : { previous: key(previous) }),
})
const registry = (current: number | undefined, ...dead: number[]) => ({
  current: current === undefined ? undefined : (key(current).keyId as never),
  dead: new Set(dead.map((version) => key(version).keyId)),
})
async function storeWith(value: StoredCredential) {
  const store = memoryStore()
  await store.replace(value, undefined)
  return store
}

test.each([
  ['the key in use, which lives', holding(1), registry(1), holding(2, 1)],
  ['the one before, where the key in use is dead', holding(2, 1), registry(1, 2), holding(3, 1)],
  ['none, where all are dead', holding(2, 1), registry(undefined, 1, 2), holding(3)],
  ['what was current, where the new key was taken back', holding(1, 3), registry(1), holding(3, 1)],
])('a new key has beside it: %s', async (_, before, standings, after) => {
  const store = await storeWith(before)
  const { current } = after
  await deposit(store, CREDENTIAL, current, async () => standings, signal)
  expect((await store.read())?.value).toEqual(after)
})

test.each([
  ['going: the old one is current again, and it stays beside it while it lives', holding(2, 1), registry(1), holding(1, 2)],
  ['off: the old one is alone', holding(1, 2), registry(1, 2), holding(1)],
  ['dead, and in use still', holding(2, 1), registry(1, 2), holding(1)],
  ['what is left, because the old one is dead', holding(1, 2), registry(2, 1), holding(2)],
  ['the current one after all', holding(2, 1), registry(2), holding(2, 1)],
  ['long replaced', holding(3, 1), registry(1, 2), holding(3, 1)],
])('a store is settled about a key that is %s', async (_, before, standings, after) => {
  const store = await storeWith(before)
  expect(await settle(store, CREDENTIAL, key(2).keyId, async () => standings, signal)).toBe(true)
  expect((await store.read())?.value).toEqual(after)
})

test('it is said when a store has no key that lives', async () => {
  const store = await storeWith(holding(2))
  expect(await settle(store, CREDENTIAL, key(2).keyId, async () => registry(1, 2), signal)).toBe(false)
})

test('whoever has read the store before it was settled can not write any more, though nothing is to be changed', async () => {
  const store = await storeWith(holding(1))
  const version = (await store.read())?.version
  await settle(store, CREDENTIAL, key(2).keyId, async () => registry(1), signal)
  await expect(store.replace(holding(2, 1), version)).rejects.toThrow('somebody else')
})

async function storedIn(store: Awaited<ReturnType<typeof storeWith>>): Promise<StoredCredential> {
  const value = (await store.read())?.value
  return value?.current === undefined ? expect.fail('nothing is stored') : value
}

const version = fc.integer({ min: 1, max: 4 })

test('G1: however keys die and come, a store that has one that lives has it in use, and keeps it', async () => {
  const step = fc.record({
    what: fc.constantFrom('deposit', 'settle'),
    of: version,
    current: version,
    dead: fc.uniqueArray(version),
  })
  const run = fc.asyncProperty(fc.array(step, { maxLength: 6 }), async (steps) => {
    const store = await storeWith(holding(1))
    for (const { what, of, current, dead } of steps) {
      const standings = registry(dead.includes(current) ? undefined : current, ...dead)
      const lives = (k: StoredKey | undefined) => k !== undefined && !standings.dead.has(k.keyId)
      const before = await storedIn(store)
      if (what === 'deposit') await deposit(store, CREDENTIAL, key(of), async () => standings, signal)
      else await settle(store, CREDENTIAL, key(of).keyId, async () => standings, signal)
      const { current: inUse, previous } = await storedIn(store)
      const living = [before.current, before.previous].filter(lives)
      if (living.length === 0) continue
      expect(living.some((k) => k?.keyId === inUse.keyId || k?.keyId === previous?.keyId)).toBe(true)
      if (what === 'settle') expect(lives(inUse)).toBe(true)
    }
  })
  await fc.assert(run, { numRuns: 1_000 })
})
