/**
 * The agent: follows the rotations of a key for a program that knows nothing of them. It is not on the request path: it follows the client's
 * feed, and asks the API now and then. All that it knows is in the store and at the API, so it may be killed at any instant.
 */
import { Claimant } from '../claims.ts'
import type { ClientEvent } from '../events.ts'
import { claimFirstKey } from '../first-claim.ts'
import { type Given, readGiven } from '../given.ts'
import { Keyring, requireCredential } from '../keyring.ts'
import { ApiAway, askOwnKey, type OwnKey } from '../own-key.ts'
import { type Store, type StoredCredential, type StoredKey, StoreError } from '../store.ts'
import type { Asking } from '../successor.ts'
import { backOff, jittered, pause } from '../waiting.ts'
import type { AgentConfig } from './config.ts'
import { writeFiles } from './files.ts'
import type { First } from './first.ts'
import { News } from './news.ts'
import { ProgramError, runCommand, tellProgram } from './program.ts'

/** What a person wants to know. Nothing here holds a secret. */
export type AgentEvent =
  | ClientEvent
  | { readonly type: 'watching'; readonly keyId: string; readonly version: number }
  | { readonly type: 'switching'; readonly keyId: string; readonly from?: string }
  | { readonly type: 'switched'; readonly keyId: string }
  /** The program did not come up with the new key. */
  | { readonly type: 'put-back'; readonly keyId: string; readonly refused: string; readonly detail: string; readonly again: Date }
  /** It did not come up, and there is no other key that is accepted. It is told again only where that may help. */
  | { readonly type: 'not-up'; readonly keyId: string; readonly detail: string; readonly again?: Date }
  | { readonly type: 'no-key-accepted'; readonly keyId: string }
  | { readonly type: 'api-away'; readonly detail: string }

/** The first key is put into a store that holds none; a first claim is used for such a store. */
export interface AgentOptions extends First {
  readonly config: AgentConfig
  readonly store: Store
  readonly tell: (event: AgentEvent) => void
  readonly fetch?: typeof fetch
  /** How long a key is left alone that the program did not come up with: from a minute to an hour unless given. */
  readonly againMs?: { readonly shortest: number; readonly longest: number }
}

const TIMEOUT_MS = 10_000
const LOOK_MS = 1_000
/** What is being written comes to its end. */
const NEVER = new AbortController().signal
const AGAIN_MS = { shortest: 60_000, longest: 3_600_000 }

/**
 * Works until `signal` ends it: what is being written is written then, and what is still to be checked is checked at the next start.
 * @throws StoreError when there is no key to begin with; ClaimError when there is none for the first claim
 */
export async function runAgent(options: AgentOptions, signal: AbortSignal): Promise<void> {
  // The pauses of the library keep no process alive.
  const alive = setInterval(() => undefined, 3_600_000)
  try {
    const agent = new Agent(options, signal)
    await agent.begin().catch((error: unknown) => {
      if (!signal.aborted) throw error
    })
    while (!signal.aborted) {
      await agent.look()
      await agent.rest().catch(() => undefined)
    }
    await agent.end()
  } finally {
    clearInterval(alive)
  }
}

class Agent {
  readonly #options: AgentOptions
  readonly #signal: AbortSignal
  readonly #keyring: Keyring
  readonly #claimant: Claimant
  readonly #asking: Asking
  readonly #news: News
  /** The program was well with it. */
  #settled = ''
  /** What the store held at the first look. */
  #first: string | undefined
  #watched = ''
  #failures = 0
  /** Until then, the key that the program did not come up with is left alone. */
  #notBefore = 0

  constructor(options: AgentOptions, signal: AbortSignal) {
    const { config, store, firstKey, tell, fetch = globalThis.fetch } = options
    this.#options = options
    this.#signal = signal
    const { credentialId } = config
    this.#keyring = new Keyring({ store, given: givenKey(firstKey, config), credentialId, now: Date.now, tell })
    this.#asking = { api: config.api, fetch, timeoutMs: TIMEOUT_MS, now: Date.now }
    this.#news = new News(this.#asking)
    this.#claimant = new Claimant({ keyring: this.#keyring, asking: this.#asking, tell, signal })
  }

  /** To a key, if there is none yet. A store that does not answer is waited for. */
  async begin(): Promise<void> {
    const { config, store, firstKey, firstClaim: code, tell } = this.#options
    const { kind, credentialId } = config
    const claiming = { code, kind, credentialId, store, asking: this.#asking, tell, signal: this.#signal }
    if (firstKey === undefined) await claimFirstKey(claiming)
    try {
      await this.#keyring.read()
    } catch (error) {
      if (!(error instanceof StoreError) || error.code !== 'unreachable') throw error
    }
  }

  /** Until the next look. @throws the signal's reason */
  rest(): Promise<void> {
    return this.#news.wait(this.#keyring.value?.current, jittered(this.#options.config.intervalMs), this.#signal)
  }

  async end(): Promise<void> {
    await this.#claimant.settled()
  }

  /** One look at the store and the API, and what follows from it. */
  async look(): Promise<void> {
    const { tell } = this.#options
    try {
      await this.#look()
    } catch (error) {
      if (this.#signal.aborted) return
      if (error instanceof StoreError) tell({ type: 'store-failed', code: error.code, message: error.message })
      else if (error instanceof ApiAway) tell({ type: 'api-away', detail: error.message })
      else throw error
    }
  }

  async #look(): Promise<void> {
    const { tell, config } = this.#options
    const { current, previous } = (await this.#keyring.read()).value
    this.#first ??= current.keyId
    const own = await this.#ask(current)
    if (own === undefined) {
      // Of a rotation that was rolled back, or a new key that was withdrawn.
      if (previous !== undefined && (await this.#ask(previous)) !== undefined) return await this.#switch(previous, current)
      return tell({ type: 'no-key-accepted', keyId: current.keyId })
    }
    if (this.#watched !== current.keyId) tell({ type: 'watching', keyId: current.keyId, version: own.version })
    this.#watched = current.keyId
    if (own.successor === undefined) return await this.#settle(current, own, previous)

    await writeFiles(config.files, current)
    const held = previous === undefined ? undefined : await this.#ask(previous)
    if (previous !== undefined && held?.version === own.successor) {
      // It was put back, or its switch was not ended.
      if (Date.now() >= this.#notBefore) await this.#switch(previous, current)
      return
    }
    this.#claimant.start({ keyId: current.keyId, version: own.successor })
    await this.#claimant.settled()
    this.#signal.throwIfAborted()
    const after = (await this.#keyring.read()).value
    if (after.current.keyId !== current.keyId && after.previous !== undefined) await this.#switch(after.current, after.previous)
  }

  /** @throws StoreError, when the key is of another credential than the configuration names: not every store says whose its key is */
  readonly #ask = async (key: StoredKey): Promise<OwnKey | undefined> => {
    const own = await askOwnKey(this.#asking, key, this.#signal)
    if (own?.credentialId !== undefined) requireCredential(own.credentialId, this.#options.config.credentialId)
    return own
  }

  /** Has the program the key that is in the store? A switch that was not ended is made again; one that another agent has made is made here, too. */
  async #settle(current: StoredKey, own: OwnKey, previous: StoredKey | undefined): Promise<void> {
    const written = await writeFiles(this.#options.config.files, current)
    if (this.#settled === current.keyId && written === 0) return
    const isFromBefore = this.#settled === '' && this.#first === current.keyId && written === 0
    if (isFromBefore && (previous === undefined || (await this.#wasTold(own)))) this.#settled = current.keyId
    else if (Date.now() >= this.#notBefore) await this.#switch(current, previous, { anyUse: isFromBefore || this.#isShared })
  }

  /** Of a store that hosts share, another's program may be the one that uses a key: that says nothing of this one, be it from before or not. */
  get #isShared(): boolean {
    const { store } = this.#options.config
    return !('file' in store || 'env' in store)
  }

  /** Whether the program has been told of a key that was in the store before the agent has started. */
  async #wasTold({ keyId, lastUsedAt }: OwnKey): Promise<boolean> {
    const { check, program } = this.#options.config
    if (this.#isShared || lastUsedAt === undefined) return false
    if (check.run === undefined) return true
    return runCommand(check.run, program.timeoutMs, keyId).then(
      () => true,
      () => false,
    )
  }

  /**
   * @param fallback what the program goes back to when it does not come up
   * @param anyUse a use of the key from before is enough
   */
  async #switch(wanted: StoredKey, fallback: StoredKey | undefined, { anyUse = false } = {}): Promise<void> {
    const { tell } = this.#options
    const { keyId } = wanted
    tell({ type: 'switching', keyId, ...(fallback === undefined ? {} : { from: fallback.keyId }) })
    const before = anyUse ? undefined : (await this.#ask(wanted))?.lastUsedAt
    if (!(await this.#store(wanted, fallback))) return
    try {
      await this.#useByProgram(wanted)
      await this.#untilWell(wanted, before)
      this.#settled = keyId
      this.#failures = 0
      tell({ type: 'switched', keyId })
    } catch (error) {
      if (!(error instanceof ProgramError)) throw error
      this.#failures += 1
      const { shortest = AGAIN_MS.shortest, longest = AGAIN_MS.longest } = this.#options.againMs ?? {}
      this.#notBefore = Date.now() + backOff(this.#failures, shortest, longest)
      await this.#goBack(wanted, fallback, error)
    }
  }

  async #goBack(from: StoredKey, to: StoredKey | undefined, { message, unused }: ProgramError): Promise<void> {
    const { tell } = this.#options
    const again = new Date(this.#notBefore)
    // A key that is not accepted any more helps nobody.
    if (to === undefined || (await this.#ask(to)) === undefined || !(await this.#store(to, from))) {
      // A program that is well and idle is not restarted again and again for that.
      if (unused) this.#settled = from.keyId
      return tell({ type: 'not-up', keyId: from.keyId, detail: message, ...(unused ? {} : { again }) })
    }
    const worse = await this.#useByProgram(to).then(
      () => '',
      (error: unknown) => `; and with the old key: ${error instanceof Error ? error.message : 'error'}`,
    )
    this.#settled = to.keyId
    tell({ type: 'put-back', keyId: to.keyId, refused: from.keyId, detail: message + worse, again })
  }

  /** @returns false when another process was first: the next look sees what it wrote */
  async #store(current: StoredKey, previous: StoredKey | undefined): Promise<boolean> {
    const { value, version } = await this.#keyring.read()
    if (value.current.keyId === current.keyId) return true
    const next = { ...value, current, ...(previous === undefined ? {} : { previous }) }
    return (await this.#keyring.replace(next, version, NEVER)) !== undefined
  }

  async #useByProgram(key: StoredKey): Promise<void> {
    const { files, program } = this.#options.config
    await writeFiles(files, key)
    await tellProgram(program, key.keyId)
  }

  /** @throws ProgramError when it is not well in time, or the signal's reason */
  async #untilWell(key: StoredKey, before: string | undefined): Promise<void> {
    const { run, withinMs, usedWithinMs } = this.#options.config.check
    const { timeoutMs } = this.#options.config.program
    if (run !== undefined) {
      for (const until = Date.now() + withinMs; ; await pause(LOOK_MS, this.#signal)) {
        const flaw = await runCommand(run, timeoutMs, key.keyId).catch((error: unknown) => error)
        if (flaw === undefined) break
        if (!(flaw instanceof ProgramError) || Date.now() > until) throw flaw
      }
    }
    if (usedWithinMs === undefined) return
    for (let until = Date.now() + usedWithinMs; ; await pause(LOOK_MS, this.#signal)) {
      try {
        const own = await this.#ask(key)
        if (own === undefined) throw new ProgramError('the new key is not accepted any more')
        if (own.lastUsedAt !== undefined && own.lastUsedAt !== before) return
      } catch (error) {
        if (!(error instanceof ApiAway)) throw error
        // Whoever can not see must not judge.
        until = Math.max(until, Date.now() + 2 * LOOK_MS)
      }
      if (Date.now() > until) throw new ProgramError(`no gateway has seen the key in use within ${usedWithinMs / 1_000} s`, true)
    }
  }
}

function givenKey(given: Given | undefined, { credentialId }: AgentConfig): StoredCredential | undefined {
  const key = readGiven(given)
  return key === undefined || credentialId === undefined ? key : { ...key, credentialId }
}
