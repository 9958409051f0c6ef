/**
 * What Keyturn does in a client's store, as the client's own programs would: compare and set, and nothing that has been done is done again.
 * Which of the keys that are there may stay is asked of the registry, after the store was read: not concluded from what was written before.
 */
import { type Store, StoreConflict, type StoredCredential, type StoredKey, type StoredValue } from '@keyturn/client'
import type { Standings } from '../../registry/deliveries.ts'

/** Others write, too: a client that claims, a person. */
const TRIES = 5

type Change = (value: Awaited<ReturnType<Store['read']>>) => Promise<StoredValue | undefined>

/** @returns the version of the store that has it */
async function change(store: Store, next: Change, signal: AbortSignal): Promise<string | undefined> {
  for (let tries = 1; ; tries++) {
    const found = await store.read(signal)
    const value = await next(found)
    if (value === undefined) return found?.version
    try {
      return await store.replace(value, found?.version, signal)
    } catch (error) {
      if (!(error instanceof StoreConflict) || tries >= TRIES) throw error
    }
  }
}

const keysIn = ({ current, previous }: StoredCredential): readonly StoredKey[] =>
  previous === undefined ? [current] : [current, previous]

/**
 * The new key becomes the current one, and a key that still lives the one before it.
 * @param ask whether it is still to be written, and if so how the others stand
 * @returns the version of the store that has it, unless it is not to be written any more
 * @throws StoreError, StoreConflict
 */
export async function deposit(
  store: Store,
  credentialId: string,
  key: StoredKey,
  ask: () => Promise<Standings | undefined>,
  signal: AbortSignal,
): Promise<string | undefined> {
  let wanted = true
  const next: Change = async (found) => {
    const value = found?.value
    const standings = await ask()
    wanted = standings !== undefined
    if (standings === undefined) return undefined
    // A program that claims its first key there has none to go back to.
    if (value?.current === undefined) return { format: 1, credentialId, current: key }
    if (value.current.keyId === key.keyId) return undefined
    const previous = keysIn(value).find(({ keyId }) => keyId !== key.keyId && !standings.dead.has(keyId))
    return { format: 1, credentialId, current: key, ...(previous === undefined ? {} : { previous }) }
  }
  const version = await change(store, next, signal)
  return wanted ? (version ?? '') : undefined
}

/**
 * Where the key in use is dead, or is `goingKeyId` and the registry has another as the current one, one that lives takes its place; a dead one
 * does not stay beside it. It writes where nothing is to be changed, too: whoever has read the store before can not write any more then.
 * @returns false when the store has none that lives
 * @throws StoreError, StoreConflict
 */
export async function settle(
  store: Store,
  credentialId: string,
  goingKeyId: string,
  standings: () => Promise<Standings>,
  signal: AbortSignal,
): Promise<boolean> {
  let sound = true
  const next: Change = async (found) => {
    const value = found?.value
    if (value?.current === undefined) return undefined
    const { current, dead } = await standings()
    const living = keysIn(value).filter(({ keyId }) => !dead.has(keyId))
    const proper = living.find(({ keyId }) => keyId === current)
    const { previous: _, ...inUse } = value
    const stays = living.includes(inUse.current) && (inUse.current.keyId !== goingKeyId || proper === undefined)
    const best = stays ? inUse.current : (proper ?? living[0])
    sound = best !== undefined
    if (best === undefined) return value
    const previous = living.find((key) => key !== best)
    const beside = previous === undefined ? {} : { previous }
    return stays ? { ...inUse, credentialId, ...beside } : { format: 1, credentialId, current: best, ...beside }
  }
  await change(store, next, signal)
  return sound
}
