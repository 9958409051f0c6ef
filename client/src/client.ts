/** A `fetch` that shows an API key, or signs with it, and follows the key's rotations by itself. */
import { HEADERS, parseRotationNotice } from '@keyturn/contract/headers'
import { readClaimCode } from './claim-code.ts'
import { Claimant, isReplaced } from './claims.ts'
import type { Listener } from './events.ts'
import { Exchange } from './exchange.ts'
import { type Given, readGiven } from './given.ts'
import { Keyring, tellStoreError } from './keyring.ts'
import { shownOutgoing, signedOutgoing } from './outgoing.ts'
import type { Store, StoredKey } from './store.ts'

export interface ClientOptions {
  readonly store: Store
  /** Put into the store when it is empty; afterwards what the store holds counts. */
  readonly credential?: Given
  /** Address of the provider's control plane, where the successor of a key is claimed. */
  readonly api: string | URL
  /** Where the key may be sent: requests to other origins are refused. Everywhere unless given. */
  readonly origins?: readonly string[]
  /** Instead of the runtime's own. */
  readonly fetch?: typeof fetch
  /** What happens in the background. It must not throw. */
  readonly onEvent?: Listener
  /** Of one question to the control plane. 10 s. */
  readonly timeoutMs?: number
  /** After so long, a claim that another process has begun and not ended is gone on with. 10 s. */
  readonly abandonedMs?: number
  /** ms since the epoch. */
  readonly now?: () => number
}

export interface Client {
  readonly fetch: typeof fetch
  /**
   * Claims the successor with a claim that the provider has sent: its code, or an address with the code.
   * @returns when the new key is in the store
   * @throws ClaimError, StoreError, TypeError when there is no code in it
   */
  claim(urlOrCode: string): Promise<{ keyId: string }>
  /** The id of the key that the next request will be sent with. @throws StoreError */
  keyId(): Promise<string>
  /** Ends what goes on in the background; requests under way go on. */
  close(): Promise<void>
}

const TIMEOUT_MS = 10_000

export function createClient(options: ClientOptions): Client {
  const { store, credential, fetch = globalThis.fetch, now = Date.now, timeoutMs = TIMEOUT_MS } = options
  const tell: Listener = options.onEvent ?? (() => undefined)
  const closing = new AbortController()
  const { signal } = closing
  const given = readGiven(credential)
  const keyring = new Keyring({ store, given, now, tell })
  const api = readApi(options.api)
  const origins = options.origins === undefined ? undefined : new Set(options.origins.map((origin) => new URL(origin).origin))
  const { abandonedMs } = options
  const claimant = new Claimant({ keyring, asking: { api, fetch, timeoutMs, now }, tell, signal, abandonedMs })

  const seen = (key: StoredKey, response: Response): void => {
    const header = response.headers.get(HEADERS.rotation)
    if (header === null || signal.aborted || !claimant.isIdle) return
    const { value } = keyring
    const notice = parseRotationNotice(header)
    if (value === undefined || notice === undefined) return
    const wanted = { keyId: key.keyId, version: notice.successor }
    if (!isReplaced(value, wanted)) claimant.start(wanted)
  }
  const exchange = new Exchange({ keyring, fetch, now, tell, seen })

  let unwatch: (() => void) | undefined
  let opening: Promise<void> | undefined
  const open = async (): Promise<void> => {
    try {
      await keyring.read(signal)
    } catch (error) {
      // A store that can not be reached is no reason to stand still while there is a key at hand.
      if (!isUnreachable(error) || !keyring.useGiven()) throw error
      tellStoreError(tell, error)
    }
    unwatch ??= store.watch?.(() => void keyring.read(signal).then(resume, ignoreWhenClosed))
    resume()
  }
  const ignoreWhenClosed = (error: unknown): void => {
    if (!signal.aborted) tellStoreError(tell, error)
  }
  /** A claim that somebody has begun may be left to us. */
  const resume = (): void => {
    const { value } = keyring
    if (value?.pending !== undefined) claimant.start({ keyId: value.current.keyId, begun: true })
  }
  const opened = (): Promise<void> => {
    opening ??= open().catch((error: unknown) => {
      opening = undefined
      throw error
    })
    return opening
  }

  return {
    async fetch(input, init) {
      if (origins !== undefined) checkOrigin(input, origins)
      if (keyring.value === undefined || opening === undefined) await opened()
      const signs = keyring.value?.current.kind !== 'bearer'
      return exchange.send(await (signs ? signedOutgoing(fetch, input, init, now) : shownOutgoing(fetch, input, init)))
    },
    async claim(urlOrCode) {
      const code = readClaimCode(urlOrCode)
      await opened()
      const { keyId } = await claimant.claim(code)
      return { keyId }
    },
    async keyId() {
      await opened()
      return keyring.keys[0]?.keyId ?? ''
    },
    async close() {
      closing.abort(new Error('the client is closed'))
      unwatch?.()
      await claimant.settled()
    },
  }
}

const isUnreachable = (error: unknown): boolean => (error as { code?: unknown }).code === 'unreachable'

function readApi(given: string | URL): string {
  const { protocol, origin, pathname } = new URL(given)
  if (protocol !== 'https:' && protocol !== 'http:') throw new TypeError('`api` is not an http or https address')
  return origin + pathname.replace(/\/+$/, '')
}

function checkOrigin(input: Parameters<typeof fetch>[0], origins: ReadonlySet<string>): void {
  const { origin } = new URL(typeof input === 'object' && 'url' in input ? input.url : input)
  if (!origins.has(origin)) throw new TypeError(`${origin} is none of the origins that the key may be sent to`)
}
