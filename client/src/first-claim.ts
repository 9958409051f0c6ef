/**
 * Claims the first key of a credential, for a store that holds none. As with successors (`claims.ts`), the pair that the answer is for is in the store before the
 * API is asked, so that a kill at any instant loses no key: the next start asks for the same, and gets the same answer.
 */
import { ClaimError } from './claim-error.ts'
import type { Listener } from './events.ts'
import { newPair } from './key-pairs.ts'
import { tellStoreError } from './keyring.ts'
import {
  kindOf,
  type Store,
  StoreConflict,
  type Stored,
  type StoredFirstClaim,
  type StoredKey,
  type StoredValue,
  StoreError,
} from './store.ts'
import { type Asking, askWithClaim } from './successor.ts'
import { backOff, pause } from './waiting.ts'

const AGAIN_MS = { shortest: 250, longest: 30_000 }
/** What has been handed out is stored, whoever wants the process to end. */
const NEVER = new AbortController().signal

interface FirstClaim {
  /** Without one only a claim that the store holds is ended. */
  readonly code?: string | undefined
  readonly kind: StoredKey['kind']
  readonly credentialId?: string | undefined
  readonly store: Store
  readonly asking: Asking
  readonly tell: Listener
  readonly signal: AbortSignal
}

/**
 * Returns when the store holds a key, or nothing of a claim.
 * @throws ClaimError when the claim is refused for good; StoreError; the signal's reason
 */
export async function claimFirstKey(options: FirstClaim): Promise<void> {
  const { tell, asking, signal } = options
  for (let tries = 1; ; tries++) {
    try {
      const delay = await step(options)
      if (delay === undefined) return
      const waitMs = Math.max(delay.afterMs ?? 0, backOff(tries, AGAIN_MS.shortest, AGAIN_MS.longest))
      tell({ type: 'claim-delayed', detail: delay.detail, again: new Date(asking.now() + waitMs) })
      await pause(waitMs, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof StoreConflict) continue
      if (!(error instanceof StoreError) || error.code !== 'unreachable') throw error
      tellStoreError(tell, error)
      await pause(backOff(tries, AGAIN_MS.shortest, AGAIN_MS.longest), signal)
    }
  }
}

/** @returns why it has to be tried again, if it has to be. @throws StoreConflict when somebody else has written in between */
async function step(options: FirstClaim): Promise<{ detail: string; afterMs?: number } | undefined> {
  const { store, asking, signal, tell } = options
  const found = await store.read(signal)
  if (found?.value.current !== undefined) return undefined
  const begun = await begin(options, found)
  if (begun === undefined) return undefined
  const { value, version } = begun
  const { pending, kind } = value
  if (value.refused !== undefined) throw new ClaimError(value.refused)
  const answer = await askWithClaim(asking, kind, pending, signal)
  if (answer.outcome === 'later') return answer
  if (answer.outcome === 'refused') {
    await store.replace({ ...value, refused: answer.code }, version, NEVER)
    throw new ClaimError(answer.code)
  }
  await keep(options, { format: 1, ...ofCredential(value), current: answer.key }, version)
  tell({ type: 'claimed', keyId: answer.key.keyId })
  return undefined
}

const ofCredential = ({ credentialId }: { readonly credentialId?: string | undefined }) =>
  credentialId === undefined ? {} : { credentialId }

/** What the store holds of this claim; written now where it holds none, or another one. */
async function begin(
  { code, kind, credentialId, store, asking, signal }: FirstClaim,
  found: Stored | undefined,
): Promise<Stored<StoredFirstClaim> | undefined> {
  const held = found?.value
  if (held !== undefined && held.current === undefined) {
    const isThis = code === undefined || (held.pending.claim === code && kindOf(held) === kind)
    if (isThis) return { value: held, version: found?.version ?? '' }
  }
  if (code === undefined) return undefined
  const since = new Date(asking.now()).toISOString()
  const pending = { since, privateKey: await newPair(kind), claim: code }
  const value: StoredFirstClaim = { format: 1, ...ofCredential({ credentialId }), kind, pending }
  return { value, version: await store.replace(value, found?.version, signal) }
}

/** The answer is at hand and can not be had again for ever: it is stored, however long that takes. */
async function keep({ store, tell, signal }: FirstClaim, value: StoredValue, version: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await store.replace(value, version, NEVER)
      return
    } catch (error) {
      if (!(error instanceof StoreError)) throw error
      tellStoreError(tell, error)
      await pause(backOff(tries, AGAIN_MS.shortest, AGAIN_MS.longest), signal)
    }
  }
}
