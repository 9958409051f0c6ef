/** A request that may have to be sent more than once, each time with another key. */
import type { Bytes } from './bytes.ts'
import { OneShotBody } from './one-shot-body.ts'
import { signatureFields } from './signing.ts'
import type { StoredKey } from './store.ts'

export interface Outgoing {
  /** Its body is read while it is sent: it is sent with a key that is known to be accepted, since little of it can be kept. */
  readonly oneShot: boolean
  /** Whether all of it is still at hand. */
  readonly isWhole: boolean
  readonly url: string
  readonly signal: AbortSignal | undefined
  send(key: StoredKey): Promise<Response>
}

type Input = Parameters<typeof fetch>[0]
type Init = NonNullable<Parameters<typeof fetch>[1]>

const isRequest = (input: Input): input is Request => typeof input === 'object' && 'url' in input && 'method' in input

/** Texts, bytes, blobs and forms are read anew for each try; streams and what else can be iterated are not. */
const isOneShot = (body: unknown): body is ReadableStream | AsyncIterable<Uint8Array> =>
  typeof body === 'object' &&
  body !== null &&
  !ArrayBuffer.isView(body) &&
  (body instanceof ReadableStream || Symbol.asyncIterator in body)

/** Of a request object nobody can tell what its body was made from: one as short as this is read before it is sent, and is none that can be read once. */
const READ_AHEAD_BYTES = 64 << 10

/** The key is shown as it is: the request stays as it was given, but for one field. */
export async function shownOutgoing(send: typeof fetch, input: Input, init: Init | undefined): Promise<Outgoing> {
  const given = isRequest(input) ? input : undefined
  const body: unknown = init?.body ?? given?.body
  const url = given?.url ?? String(input)
  const signal = init?.signal ?? given?.signal ?? undefined
  const sendWith = (key: StoredKey, rest: Init | undefined): Promise<Response> => {
    const headers = new Headers(init?.headers ?? given?.headers)
    if (key.kind === 'bearer') headers.set('authorization', `Bearer ${key.token}`)
    return send(input, { ...init, ...rest, headers })
  }
  if (!isOneShot(body)) return { oneShot: false, isWhole: true, url, signal, send: (key) => sendWith(key, undefined) }
  const once = new OneShotBody(body)
  const bytes = body === given?.body ? await once.readUpTo(READ_AHEAD_BYTES) : undefined
  if (bytes !== undefined) return { oneShot: false, isWhole: true, url, signal, send: (key) => sendWith(key, { body: bytes }) }
  return {
    oneShot: true,
    get isWhole() {
      return once.isWhole
    },
    url,
    signal,
    send: (key) => sendWith(key, { body: once.stream(), duplex: 'half' } as Init),
  }
}

const MAY_HAVE_NO_BODY = new Set(['GET', 'HEAD'])

/**
 * The key signs: method, address and a digest of the body, which is read to its end for that. So it can be sent again, signed anew. Redirects are not
 * followed unless the caller wants it: what was signed is not where they lead.
 */
export async function signedOutgoing(
  send: typeof fetch,
  input: Input,
  init: Init | undefined,
  now: () => number,
): Promise<Outgoing> {
  const request = new Request(input, { redirect: 'manual', ...init })
  const { origin, pathname, search } = new URL(request.url)
  // As it goes out: without the fragment, and without a question mark that asks nothing.
  const url = `${origin}${pathname}${search}`
  const hasBody = !MAY_HAVE_NO_BODY.has(request.method) && request.body !== null
  const body: Bytes | undefined = hasBody ? new Uint8Array(await request.arrayBuffer()) : undefined
  return {
    oneShot: false,
    isWhole: true,
    url,
    signal: request.signal,
    async send(key) {
      const headers = new Headers(request.headers)
      const fields = await signatureFields(key, { method: request.method, url, body, now: now() })
      for (const [name, value] of Object.entries(fields)) headers.set(name, value)
      const { method, signal, redirect, credentials, cache, mode, referrer, referrerPolicy, integrity, keepalive } = request
      const rest = { redirect, credentials, cache, mode, referrer, referrerPolicy, integrity, keepalive }
      return send(url, { ...init, ...rest, method, headers, signal, ...(body === undefined ? {} : { body }) } as Init)
    },
  }
}
