/**
 * Claims the successor of a key, in the background. Of all the processes that share a store the one that manages to write `pending` asks the
 * API; the pair that the answer is encrypted to is in the store before that, so whoever finds a claim that its maker did not end, repeats it and gets
 * the same answer (docs/adr/0020).
 */
import { ClaimError } from './claim-error.ts'
import type { Listener } from './events.ts'
import { newPair } from './key-pairs.ts'
import { type Keyring, tellStoreError } from './keyring.ts'
import { askOwnKey } from './own-key.ts'
import { type PendingClaim, type Stored, type StoredCredential, type StoredKey, StoreError } from './store.ts'
import { type Asking, askForSuccessor } from './successor.ts'
import { backOff, jittered, pause } from './waiting.ts'

/** So long after `since`, another process goes on with a claim. */
const ABANDONED_MS = 10_000
/**
 * While the API is away, `since` is set ahead for so many waits: some stores keep every write, and have room for a hundred a day. The API
 * repeats its answer for 10 minutes, so that another process must not come later.
 */
const AHEAD = { waits: 10, longestMs: 5 * 60_000 }
/** How often others look for the end of a claim, where the store does not tell them; less often when that is far off. */
const LOOK_MS = 500
const LOOKS = 20
const AGAIN_MS = { shortest: 250, longest: 30_000 }
/** After these, a notice may be out of date or come before its rotation. */
const REFUSED_MS: Readonly<Record<string, number>> = { 'no-successor': 30_000, 'successor-refused': 10 * 60_000 }
const REFUSED_LONG_MS = 60 * 60_000

interface Wanted {
  /** The key to be replaced. */
  readonly keyId: string
  /** Of a claim that was handed over. */
  readonly code?: string
  readonly version?: number
  /** Only to end what somebody has begun. */
  readonly begun?: boolean
}

interface ClaimantOptions {
  readonly keyring: Keyring
  readonly asking: Asking
  readonly tell: Listener
  readonly signal: AbortSignal
  readonly abandonedMs?: number | undefined
}

export class Claimant {
  readonly #options: ClaimantOptions
  /** One at a time in a process. */
  #running: Promise<unknown> | undefined
  #notBefore = 0
  #failures = 0
  /** The last `since` that is ours. */
  #lease = ''

  constructor(options: ClaimantOptions) {
    this.#options = options
  }

  get isIdle(): boolean {
    return this.#running === undefined && this.#options.asking.now() >= this.#notBefore
  }

  /** In the background: never throws. */
  start(wanted: Wanted): void {
    if (!this.isIdle) return
    this.#running = this.#run(wanted)
      .then(
        () => {
          this.#failures = 0
        },
        (error: unknown) => this.#failed(error),
      )
      .finally(() => {
        this.#running = undefined
      })
  }

  /**
   * Claims with a code that was handed over.
   * @throws ClaimError, StoreError
   */
  async claim(code: string): Promise<StoredKey> {
    while (this.#running !== undefined) await this.#running.catch(() => undefined)
    const { value } = await this.#options.keyring.read(this.#options.signal)
    const claimed = this.#run({ keyId: value.current.keyId, code })
    this.#running = claimed
    try {
      return await claimed
    } finally {
      this.#running = undefined
    }
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#running?.catch(() => undefined)
  }

  #failed(error: unknown): void {
    const { signal, asking, tell } = this.#options
    if (signal.aborted) return
    this.#failures += 1
    this.#notBefore = asking.now() + backOff(this.#failures, AGAIN_MS.shortest, AGAIN_MS.longest)
    if (!(error instanceof ClaimError)) tellStoreError(tell, error)
  }

  /** @returns the key that has replaced the one named */
  async #run(wanted: Wanted): Promise<StoredKey> {
    const { keyring, asking, tell, signal, abandonedMs = ABANDONED_MS } = this.#options
    const patience = jittered(abandonedMs)
    for (let tries = 1; ; ) {
      const stored = await keyring.read(signal)
      const { value } = stored
      const { pending, ...kept } = value
      const { current, refused } = kept
      if (isReplaced(value, wanted)) return current
      // A claim of an older version does not say which key asks: it waits for a notice on that key.
      if (wanted.begun === true && (pending?.keyId ?? pending?.claim) === undefined) return current
      const leftMs = pending === undefined ? 0 : Date.parse(pending.since) + patience - asking.now()
      const isOurs = pending?.since === this.#lease
      if (!isOurs && leftMs > 0) {
        await pause(Math.min(leftMs, jittered(Math.max(LOOK_MS, leftMs / LOOKS))), signal)
        continue
      }
      if (pending === undefined && wanted.code === undefined && refused?.keyId === wanted.keyId) {
        if (Date.parse(refused.until) > asking.now()) throw new ClaimError(refused.code)
      }
      const lent = isOurs && leftMs > 0 ? stored : await this.#lend(stored, wanted, asking.now())
      const own = lent?.value.pending
      if (lent === undefined || own === undefined) continue
      const asked = keyOf(value, own.keyId ?? wanted.keyId) ?? current
      const answer = await askForSuccessor(asking, asked, own, signal)
      if (answer.outcome === 'key') {
        const version = wanted.version ?? (await this.#versionOf(answer.key))
        const old = own.claim === undefined ? asked : await this.#accepted(value)
        const key = await this.#keep(value, own, { ...answer.key, ...(version === undefined ? {} : { version }) }, old)
        if (key !== undefined) return key
      } else if (answer.outcome === 'refused') {
        const { code } = answer
        // What was handed over says nothing of the next claim, nor of one with the old key.
        const until = new Date(asking.now() + (own.claim === undefined ? jittered(REFUSED_MS[code] ?? REFUSED_LONG_MS) : 0))
        const said = own.claim === undefined ? { refused: { keyId: asked.keyId, code, until: until.toISOString() } } : {}
        if ((await keyring.replace({ ...kept, ...said }, lent.version, signal)) === undefined) continue
        tell({ type: 'claim-refused', code, until })
        // Somebody else's claim, and ours is still to come.
        if (own.claim !== wanted.code) continue
        throw new ClaimError(code)
      } else {
        const waitMs = Math.max(answer.afterMs ?? 0, backOff(tries, AGAIN_MS.shortest, AGAIN_MS.longest))
        tell({ type: 'claim-delayed', detail: answer.detail, again: new Date(asking.now() + waitMs) })
        if (Date.parse(own.since) < asking.now() + waitMs)
          await this.#lend(lent, wanted, asking.now() + Math.min(AHEAD.longestMs, AHEAD.waits * waitMs))
        await pause(waitMs, signal)
        tries += 1
      }
    }
  }

  /**
   * Writes that the claim is ours; with a pair of its own when nobody has begun it.
   * @param since ms since the epoch
   * @returns undefined when somebody else was first
   */
  async #lend({ value, version }: Stored<StoredCredential>, { keyId, code }: Wanted, since: number) {
    const { keyring, signal } = this.#options
    const by = code === undefined ? { keyId } : { claim: code }
    const begun = value.pending ?? { privateKey: await newPair(value.current.kind), ...by }
    const pending = { ...begun, since: new Date(since).toISOString() }
    const lent = await keyring.replace({ ...value, pending }, version, signal)
    if (lent !== undefined) this.#lease = pending.since
    return lent
  }

  /** Where no notice has said it: without it, a notice after a roll-back could not be told from an old one. */
  async #versionOf(key: StoredKey): Promise<number | undefined> {
    const { asking, signal } = this.#options
    return (await askOwnKey(asking, key, signal).catch(() => undefined))?.version
  }

  /** What a claim that was handed over replaces: it names no key, and the current one may have been withdrawn. */
  async #accepted({ current, previous }: StoredCredential): Promise<StoredKey> {
    const { asking, signal } = this.#options
    if (previous === undefined) return current
    const own = await askOwnKey(asking, current, signal).catch(() => current)
    return own === undefined ? previous : current
  }

  /**
   * Stores the new key; only what is stored is used, or a crash would lose it.
   * @returns undefined when the claim is no longer there: somebody has ended it
   */
  async #keep(before: StoredCredential, own: PendingClaim, key: StoredKey, old: StoredKey): Promise<StoredKey | undefined> {
    const { keyring, tell, signal, asking } = this.#options
    const { credentialId } = before
    const next = { format: 1, ...(credentialId === undefined ? {} : { credentialId }), current: key, previous: old } as const
    for (let tries = 1; ; tries++) {
      try {
        const { value, version } = await keyring.read(signal)
        if (value.pending?.privateKey.d !== own.privateKey.d) return undefined
        if ((await keyring.replace(next, version, signal)) !== undefined) {
          tell({ type: 'claimed', keyId: key.keyId })
          return key
        }
      } catch (error) {
        if (signal.aborted || !(error instanceof StoreError)) throw error
        tellStoreError(tell, error)
        const waitMs = backOff(tries, AGAIN_MS.shortest, AGAIN_MS.longest)
        tell({ type: 'claim-delayed', detail: 'the new key can not be stored', again: new Date(asking.now() + waitMs) })
        await pause(waitMs, signal)
      }
    }
  }
}

/** The key that asks for its successor: the current one, or the one before it where a rotation was rolled back. */
const keyOf = ({ current, previous }: StoredCredential, keyId: string): StoredKey | undefined =>
  [current, previous].find((key) => key?.keyId === keyId)

export function isReplaced(
  { current, previous }: StoredCredential,
  { keyId, version }: Pick<Wanted, 'keyId' | 'version'>,
): boolean {
  if (current.keyId === keyId) return false
  // A notice on the key before: of the rotation that has brought the current one, or of one after it was rolled back?
  const rolledBack = previous?.keyId === keyId && version !== undefined && (current.version ?? version) < version
  return !rolledBack
}
