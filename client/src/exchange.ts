/**
 * Sends requests with the keys of a keyring so that no request is lost to a rotation: what one key is refused, another one is tried for.
 *
 * A body that can be read only once can not be tried twice. It is sent with a key that has been accepted in this process a moment ago; where there is
 * none, HEAD requests to the same address find out which key is (docs/adr/0020).
 */
import type { Listener } from './events.ts'
import { type Keyring, tellStoreError } from './keyring.ts'
import type { Outgoing } from './outgoing.ts'
import { shownBy } from './signing.ts'
import type { StoredKey } from './store.ts'

/** A key that was accepted so long ago is taken to be accepted still. */
const WORKED_RECENTLY_MS = 5_000
/** A store that was read so long ago is read again before a body that can be sent once alone. */
const STORE_FRESH_MS = 30_000
/** Refusals that no key helps against must not have the store read each time. */
const READ_AGAIN_MS = 1_000

const UNAUTHORIZED = 401

/** 401 and what a server in trouble says do not show that a key is accepted. */
const showsAcceptance = (status: number): boolean => status !== UNAUTHORIZED && status < 500

interface ExchangeOptions {
  readonly keyring: Keyring
  readonly fetch: typeof fetch
  readonly now: () => number
  readonly tell: Listener
  /** Sees each response with the key that it is for. */
  readonly seen: (key: StoredKey, response: Response) => void
}

export class Exchange {
  readonly #options: ExchangeOptions

  constructor(options: ExchangeOptions) {
    this.#options = options
  }

  async send(outgoing: Outgoing): Promise<Response> {
    return outgoing.repeatable ? this.#sendWithAny(outgoing) : this.#sendOnce(outgoing)
  }

  async #sendWithAny(outgoing: Outgoing): Promise<Response> {
    const { keyring, now } = this.#options
    const refused: StoredKey[] = []
    let answer: Response | undefined
    const asked = now()
    for (let read = false; ; ) {
      const key = keyring.keys.find(({ keyId }) => !refused.some((other) => other.keyId === keyId))
      if (key === undefined) {
        if (answer !== undefined && (read || !(await this.#readSince(asked - READ_AGAIN_MS)))) return answer
        read = true
        if (keyring.keys.every(({ keyId }) => refused.some((other) => other.keyId === keyId))) {
          if (answer === undefined) throw new Error('there is no key')
          return answer
        }
        continue
      }
      const response = await outgoing.send(key)
      if (!(await isRefusalOfKey(response))) {
        if (response.status !== UNAUTHORIZED) this.#blame(refused, key)
        void answer?.body?.cancel().catch(() => undefined)
        this.#note(key, response)
        return response
      }
      refused.push(key)
      // The answer to the first one is the one that counts.
      if (answer === undefined) answer = response
      else void response.body?.cancel().catch(() => undefined)
    }
  }

  async #sendOnce(outgoing: Outgoing): Promise<Response> {
    const { now } = this.#options
    await this.#readSince(now() - STORE_FRESH_MS)
    const key = await this.#acceptedKey(outgoing)
    const response = await outgoing.send(key)
    this.#note(key, response)
    return response
  }

  /** One that is accepted now, as far as can be known; the first one where none is. */
  async #acceptedKey({ url, signal }: Outgoing): Promise<StoredKey> {
    const { keyring, now } = this.#options
    const refused: StoredKey[] = []
    for (let read = false; ; ) {
      const key = keyring.keys.find(({ keyId }) => !refused.some((other) => other.keyId === keyId))
      if (key !== undefined) {
        if (keyring.hasWorkedSince(key.keyId, now() - WORKED_RECENTLY_MS) || (await this.#isAccepted(key, url, signal))) {
          this.#blame(refused, key)
          return key
        }
        refused.push(key)
        continue
      }
      const [first] = refused
      if (read || !(await this.#readSince(now() - READ_AGAIN_MS))) {
        if (first === undefined) throw new Error('there is no key')
        return first
      }
      read = true
    }
  }

  async #isAccepted(key: StoredKey, url: string, signal: AbortSignal | undefined): Promise<boolean> {
    const { fetch, now } = this.#options
    const headers = await shownBy(key, { method: 'HEAD', url, body: undefined, now: now() })
    const response = await fetch(url, {
      method: 'HEAD',
      headers,
      redirect: 'manual',
      ...(signal === undefined ? {} : { signal }),
    })
    void response.body?.cancel().catch(() => undefined)
    this.#note(key, response)
    return response.status !== UNAUTHORIZED
  }

  #note(key: StoredKey, response: Response): void {
    if (showsAcceptance(response.status)) this.#options.keyring.worked(key.keyId)
    this.#options.seen(key, response)
  }

  #blame(refused: readonly StoredKey[], accepted: StoredKey): void {
    for (const { keyId } of refused) {
      this.#options.keyring.refused(keyId)
      this.#options.tell({ type: 'fell-back', keyId: accepted.keyId, refused: keyId })
    }
  }

  /** @returns whether the store was read now; not when it has been since `since`, nor when it does not answer */
  async #readSince(since: number): Promise<boolean> {
    const { keyring, tell } = this.#options
    if (keyring.readAt >= since) return false
    try {
      await keyring.read()
      return true
    } catch (error) {
      tellStoreError(tell, error)
      return false
    }
  }
}

const PROBLEM = /^application\/problem\+json\b/i
const OURS = 'urn:keyturn:problem:'

/** A 401 that another key may help against: not one of a signature that came too late, say. */
async function isRefusalOfKey(response: Response): Promise<boolean> {
  if (response.status !== UNAUTHORIZED) return false
  if (!PROBLEM.test(response.headers.get('content-type') ?? '')) return true
  const said: unknown = await response
    .clone()
    .json()
    .catch(() => undefined)
  const { type, code } = (typeof said === 'object' && said !== null ? said : {}) as Readonly<Record<string, unknown>>
  return typeof type !== 'string' || !type.startsWith(OURS) || code === 'invalid-key'
}
