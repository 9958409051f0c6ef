/** What Keyturn does in a client's store, as the client's own programs would: compare and set, and nothing that has been done is done again. */
import { type Store, StoreConflict, type StoredKey } from '@keyturn/client'

/** Others write, too: a client that claims, a person. */
const TRIES = 5

type Change = (value: Awaited<ReturnType<Store['read']>>) => Parameters<Store['replace']>[0] | undefined

/** @returns the version of the store that has it */
async function change(store: Store, next: Change, signal: AbortSignal): Promise<string | undefined> {
  for (let tries = 1; ; tries++) {
    const found = await store.read(signal)
    const value = next(found)
    if (value === undefined) return found?.version
    try {
      return await store.replace(value, found?.version, signal)
    } catch (error) {
      if (!(error instanceof StoreConflict) || tries >= TRIES) throw error
    }
  }
}

/**
 * The new key becomes the current one, and what was current the one before it.
 * @throws StoreError, StoreConflict
 */
export async function deposit(store: Store, credentialId: string, key: StoredKey, signal: AbortSignal): Promise<string> {
  const next: Change = (found) => {
    const value = found?.value
    // A program that claims its first key there has none to go back to.
    if (value?.current === undefined) return { format: 1, credentialId, current: key }
    const { current, previous } = value
    if (current.keyId === key.keyId || previous?.keyId === key.keyId) return undefined
    return { format: 1, credentialId, current: key, previous: current }
  }
  return (await change(store, next, signal)) ?? ''
}

/**
 * After a roll-back: the key before it becomes the current one again.
 * @returns false when the store has the new key and no other
 * @throws StoreError, StoreConflict
 */
export async function putBack(store: Store, credentialId: string, newKeyId: string, signal: AbortSignal): Promise<boolean> {
  let alone = false
  const next: Change = (found) => {
    const value = found?.value
    if (value?.current === undefined || value.current.keyId !== newKeyId) return undefined
    const { previous } = value
    alone = previous === undefined
    return previous === undefined ? undefined : { format: 1, credentialId, current: previous }
  }
  await change(store, next, signal)
  return !alone
}
