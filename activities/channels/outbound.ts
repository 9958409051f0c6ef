/**
 * Requests to addresses that clients have given. Where they lead is looked at when the connection is made, and no redirect is followed:
 * an answer of a name server that changes after it was looked at, or a redirect, leads nowhere else (server-side request forgery).
 */
import { lookup as systemLookup } from 'node:dns'
import type { LookupFunction } from 'node:net'
import type { AddressBlock } from '@keyturn/contract'
import { Agent, fetch, type RequestInit, type Response } from 'undici'
import { literalAddress } from '../../registry/contacts.ts'
import { isAmong, whyNotPublic } from '../../registry/public-address.ts'
import { Undelivered } from './undelivered.ts'

const CONNECT_TIMEOUT_MS = 5_000
const REQUEST_TIMEOUT_MS = 10_000
/** Of an answer that is read: a store's secret is smaller. */
const LONGEST_ANSWER = 1_048_576

export interface OutboundOptions {
  /** Where requests may lead though it is not public. */
  readonly allow: readonly AddressBlock[]
  /** Instead of the system's, for tests. */
  readonly lookup?: LookupFunction
}

export interface OutboundAnswer {
  readonly status: number
  readonly retryAfter: string | undefined
}

export interface Outbound {
  /**
   * One POST. The answer's body is not read.
   * @param url http or https; http to `allow` alone
   * @throws Undelivered
   */
  post(url: string, init: { headers: Record<string, string>; body: string; signal: AbortSignal }): Promise<OutboundAnswer>
  /**
   * The same for what takes a `fetch` of its own, and reads answers.
   * @throws Undelivered
   */
  readonly fetch: typeof globalThis.fetch
  close(): Promise<void>
}

class ClosedAddress extends Error {}

export function createOutbound({ allow, lookup = systemLookup as LookupFunction }: OutboundOptions): Outbound {
  const refusal = (address: string, open: boolean): string | undefined => {
    const closed = whyNotPublic(address, allow)
    if (closed !== undefined) return `leads to ${closed}`
    return open && !isAmong(allow, address) ? 'would be called over http, which others can read' : undefined
  }
  /** One address that is closed, among others that are not, is reason enough: nobody means that. */
  const guarded =
    (open: boolean): LookupFunction =>
    (hostname, options, callback) => {
      lookup(hostname, { ...options, all: true }, (error, found) => {
        if (error !== null) return callback(error, [])
        const addresses = typeof found === 'string' ? [{ address: found, family: 0 }] : found
        const why = addresses.map(({ address }) => refusal(address, open)).find((each) => each !== undefined)
        if (why !== undefined) return callback(new ClosedAddress(why), [])
        const [one] = addresses
        if (one === undefined) return callback(new Error('no address'), [])
        return options.all === true ? callback(null, addresses) : callback(null, one.address, one.family)
      })
    }
  const agent = (open: boolean): Agent =>
    new Agent({ connect: { lookup: guarded(open), timeout: CONNECT_TIMEOUT_MS }, connections: 20, keepAliveTimeout: 4_000 })
  const agents = { 'http:': agent(true), 'https:': agent(false) }

  async function send<T>(
    text: string,
    init: RequestInit,
    signal: AbortSignal,
    read: (response: Response) => Promise<T>,
  ): Promise<T> {
    const url = new URL(text)
    const { protocol, host } = url
    if (protocol !== 'http:' && protocol !== 'https:') throw new Undelivered(`${host} is no web address`, { refused: true })
    const literal = literalAddress(url)
    const closed = literal === undefined ? undefined : refusal(literal, protocol === 'http:')
    if (closed !== undefined) throw new Undelivered(`${host} ${closed}`, { refused: true })
    try {
      return await read(
        await fetch(url, {
          ...init,
          redirect: 'manual',
          dispatcher: agents[protocol],
          signal: AbortSignal.any([AbortSignal.timeout(REQUEST_TIMEOUT_MS), signal]),
        }),
      )
    } catch (error) {
      const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
      if (cause instanceof ClosedAddress) throw new Undelivered(`${host} ${cause.message}`, { refused: true })
      throw new Undelivered(`${host} could not be reached (${nameOf(cause)})`)
    }
  }

  return {
    post: (url, { signal, ...init }) =>
      send(url, { ...init, method: 'POST' }, signal, async (response) => {
        await response.body?.cancel()
        return { status: response.status, retryAfter: response.headers.get('retry-after') ?? undefined }
      }),
    async fetch(input, init = {}) {
      // A Request of Node's own is not one of this library's.
      const request = new Request(input, init)
      const body = request.body === null ? null : new Uint8Array(await request.arrayBuffer())
      const { method, headers, signal } = request
      return send(request.url, { method, headers: [...headers], body }, signal, async (response) => {
        const text = await readText(response)
        const bodiless = response.status === 204 || response.status === 304
        return new globalThis.Response(bodiless ? null : text, { status: response.status, headers: [...response.headers] })
      })
    },
    async close() {
      await Promise.all(Object.values(agents).map((each) => each.destroy()))
    },
  }
}

class TooLong extends Error {
  override readonly name = 'TooLong'
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response.body ?? []) {
    length += chunk.length
    if (length > LONGEST_ANSWER) throw new TooLong()
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** ECONNREFUSED and the like; messages of such errors hold addresses. */
const nameOf = (error: unknown): string =>
  error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.name) : 'error'
