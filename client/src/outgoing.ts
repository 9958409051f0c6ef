/** A request that may have to be sent more than once, each time with another key. */
import type { Bytes } from './bytes.ts'
import { signatureFields } from './signing.ts'
import type { StoredKey } from './store.ts'

export interface Outgoing {
  /** Whether it can be sent again: false of a body that is read while it is sent. */
  readonly repeatable: boolean
  readonly url: string
  readonly signal: AbortSignal | undefined
  send(key: StoredKey): Promise<Response>
}

type Input = Parameters<typeof fetch>[0]
type Init = NonNullable<Parameters<typeof fetch>[1]>

const isRequest = (input: Input): input is Request => typeof input === 'object' && 'url' in input && 'method' in input

/** Texts, bytes, blobs and forms are read anew for each try; streams and what else can be iterated are not. */
const isOneShot = (body: unknown): boolean =>
  typeof body === 'object' &&
  body !== null &&
  !ArrayBuffer.isView(body) &&
  (body instanceof ReadableStream || Symbol.asyncIterator in body)

/** The key is shown as it is: the request stays as it was given, but for one field. */
export function shownOutgoing(send: typeof fetch, input: Input, init: Init | undefined): Outgoing {
  const given = isRequest(input) ? input : undefined
  const body: unknown = init?.body ?? given?.body
  return {
    // A request object has only one body to give, whatever it was made from.
    repeatable: !isOneShot(body),
    url: given?.url ?? String(input),
    signal: init?.signal ?? given?.signal ?? undefined,
    send(key) {
      const headers = new Headers(init?.headers ?? given?.headers)
      if (key.kind === 'bearer') headers.set('authorization', `Bearer ${key.token}`)
      return send(input, { ...init, headers })
    },
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
    repeatable: true,
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
