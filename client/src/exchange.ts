/**
 * Sends requests with the keys of a keyring so that no request is lost to a rotation: what one key is refused, another one is tried for.
 *
 * A body that can be read only once can be tried again while little of it has been read. So it is sent with a key that has been accepted in this process a
 * moment ago; where there is none, HEAD requests to the same address find out which key is (docs/adr/0020).
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
    const { keyring, now } = this.#options
    const asked = now()
    const refused: StoredKey[] = []
    let answer: Response | undefined
    let key = outgoing.oneShot ? await this.#acceptedKey(outgoing) : keyring.keys[0]
    for (;;) {
      if (key === undefined) throw new Error('there is no key')
      const response = await outgoing.send(key)
      if (!(await isRefusalOfKey(response))) {
        if (response.status !== UNAUTHORIZED) this.#blame(refused, key)
        discard(answer)
        this.#note(key, response)
        return response
      }
      refused.push(key)
      key = outgoing.isWhole ? await this.#other(refused, asked) : undefined
      // The answer to the first one is the one that counts.
      if (key === undefined && answer === undefined) return response
      if (answer === undefined) answer = response
      else discard(response)
      if (key === undefined) return answer
    }
  }

  /** A key that has not been refused yet: of those at hand, or of those that another process has put into the store. */
  async #other(refused: readonly StoredKey[], asked: number): Promise<StoredKey | undefined> {
    const { keyring } = this.#options
    const find = (): StoredKey | undefined => keyring.keys.find(({ keyId }) => !refused.some((other) => other.keyId === keyId))
    return find() ?? ((await this.#readSince(asked - READ_AGAIN_MS)) ? find() : undefined)
  }

  /** One that is accepted now, as far as can be known; the first one where none is. */
  async #acceptedKey({ url, signal }: Outgoing): Promise<StoredKey | undefined> {
    const { keyring, now } = this.#options
    await this.#readSince(now() - STORE_FRESH_MS)
    const refused: StoredKey[] = []
    for (let key = keyring.keys[0]; key !== undefined; key = await this.#other(refused, now())) {
      if (keyring.hasWorkedSince(key.keyId, now() - WORKED_RECENTLY_MS) || (await this.#isAccepted(key, url, signal))) {
        this.#blame(refused, key)
        return key
      }
      refused.push(key)
    }
    return refused[0]
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
    discard(response)
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

const discard = (response: Response | undefined): void => void response?.body?.cancel().catch(() => undefined)

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
