/** The keys that a process holds, as its store has them, and what it knows of each by having used it. */
import type { ClientEvent, Listener } from './events.ts'
import { type Store, StoreConflict, type Stored, type StoredCredential, type StoredKey, StoreError } from './store.ts'
import { backOff } from './waiting.ts'

/** A key that another one was taken for is tried again after so long, and then the later the more often it was refused. */
const REFUSED_MS = { shortest: 1_000, longest: 60_000 }

const EMPTY = 'The store holds no key yet: give one as `credential`.'
const CLAIMING = 'The store holds no key yet, but the claim of a first one, which an agent has begun: start the agent.'

type Held = Stored<StoredCredential>

interface KeyringOptions {
  readonly store: Store
  /** What the program was given, for a store that holds nothing yet. */
  readonly given: StoredCredential | undefined
  /** Whose keys these are; that of `given` unless named. */
  readonly credentialId?: string | undefined
  readonly now: () => number
  readonly tell: Listener
}

export class Keyring {
  readonly #options: KeyringOptions
  #stored: Held | undefined
  #readAt = Number.NEGATIVE_INFINITY
  #reading: Promise<Held> | undefined
  readonly #workedAt = new Map<string, number>()
  readonly #refused = new Map<string, { readonly times: number; readonly until: number }>()

  constructor(options: KeyringOptions) {
    this.#options = options
  }

  /** Those to try, the best first. */
  get keys(): readonly StoredKey[] {
    if (this.#stored === undefined) return []
    const { current, previous } = this.#stored.value
    if (previous === undefined) return [current]
    return this.#isRefused(current.keyId) && !this.#isRefused(previous.keyId) ? [previous, current] : [current, previous]
  }

  get value(): StoredCredential | undefined {
    return this.#stored?.value
  }

  get readAt(): number {
    return this.#readAt
  }

  /**
   * Reads the store, and puts what was given into one that is empty. Calls that come meanwhile share it.
   * @throws StoreError
   */
  read(signal?: AbortSignal): Promise<Held> {
    this.#reading ??= this.#read(signal).finally(() => {
      this.#reading = undefined
    })
    return this.#reading
  }

  async #read(signal: AbortSignal | undefined): Promise<Held> {
    const { store, given, now } = this.#options
    for (;;) {
      const found = await store.read(signal).catch(asStoreError)
      if (found?.value.current !== undefined) {
        const held = { ...found, value: found.value }
        this.#adopt(held, now())
        return held
      }
      if (given === undefined) throw new StoreError('unreadable', found === undefined ? EMPTY : CLAIMING)
      try {
        const stored = { value: given, version: await store.replace(given, found?.version, signal).catch(asStoreError) }
        this.#adopt(stored, now())
        return stored
      } catch (error) {
        if (!(error instanceof StoreConflict)) throw error
      }
    }
  }

  /**
   * @returns undefined when somebody else was first
   * @throws StoreError
   */
  async replace(value: StoredCredential, after: string, signal: AbortSignal): Promise<Held | undefined> {
    try {
      const stored = { value, version: await this.#options.store.replace(value, after, signal).catch(asStoreError) }
      this.#adopt(stored, this.#options.now())
      return stored
    } catch (error) {
      if (error instanceof StoreConflict) return undefined
      throw error
    }
  }

  /** For a store that does not answer while there is a key to go on with. */
  useGiven(): boolean {
    const { given } = this.#options
    if (this.#stored !== undefined || given === undefined) return this.#stored !== undefined
    this.#stored = { value: given, version: '' }
    return true
  }

  #adopt(stored: Held, at: number): void {
    const { given, credentialId: expected = given?.credentialId, tell } = this.#options
    const { credentialId, current } = stored.value
    if (credentialId !== undefined) requireCredential(credentialId, expected)
    const before = this.#stored?.value
    this.#readAt = at
    // The same objects while they are the same keys: what is made of a key is kept beside it.
    const held = [before?.current, before?.previous].filter((key) => key !== undefined)
    const keep = (key: StoredKey): StoredKey => held.find((old) => JSON.stringify(old) === JSON.stringify(key)) ?? key
    const { previous } = stored.value
    const value = { ...stored.value, current: keep(current), ...(previous === undefined ? {} : { previous: keep(previous) }) }
    this.#stored = { ...stored, value }
    if (before !== undefined && before.current.keyId !== current.keyId) {
      this.#refused.clear()
      tell({ type: 'adopted', keyId: current.keyId })
    }
  }

  hasWorkedSince(keyId: string, since: number): boolean {
    return (this.#workedAt.get(keyId) ?? Number.NEGATIVE_INFINITY) >= since
  }

  worked(keyId: string): void {
    this.#workedAt.set(keyId, this.#options.now())
    if (this.#refused.size > 0) this.#refused.delete(keyId)
  }

  /** Another key was accepted where this one was not: it is at fault, not the request. */
  refused(keyId: string): void {
    const times = (this.#refused.get(keyId)?.times ?? 0) + 1
    const until = this.#options.now() + backOff(times, REFUSED_MS.shortest, REFUSED_MS.longest)
    this.#refused.set(keyId, { times, until })
    this.#workedAt.delete(keyId)
  }

  #isRefused(keyId: string): boolean {
    return (this.#refused.get(keyId)?.until ?? 0) > this.#options.now()
  }
}

/** @throws StoreError wrong-credential */
export function requireCredential(held: string, expected: string | undefined): void {
  if (expected === undefined || held === expected) return
  throw new StoreError('wrong-credential', `The store holds ${held}, not ${expected}: give this one a store of its own.`)
}

/**
 * A store of somebody else's may throw anything: it has failed then, and is tried again.
 * @throws StoreError, which quotes nothing of it: parsers quote what they read
 * @throws StoreConflict
 */
function asStoreError(error: unknown): never {
  if (error instanceof StoreError || error instanceof StoreConflict) throw error
  throw new StoreError('unreachable', `The store threw ${nameOf(error)}. Trying again may help.`, { cause: error })
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : typeof error)

/** Tells of an error in the background, where nobody could catch it. */
export function tellStoreError(tell: (event: ClientEvent) => void, error: unknown): void {
  const { code, message } = error instanceof StoreError ? error : { code: 'failed', message: `There was ${nameOf(error)}.` }
  tell({ type: 'store-failed', code, message })
}
