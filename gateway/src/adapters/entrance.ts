/** What the adapters for Node's own requests have in common: the decision, and what follows from it for request and response. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Refused } from '../authenticate.ts'
import { bodyOf } from '../body.ts'
import { decide } from '../decide.ts'
import { endsHere, isEventStream } from '../forwarding.ts'
import type { Gateway } from '../gateway.ts'
import { problemAnswer } from '../incoming.ts'
import type { KeyEntry } from '../key-cache.ts'
import { checkScopes, forbids } from '../permissions.ts'
import type { RequestInfo } from '../request-info.ts'

export interface AdapterOptions {
  readonly gateway: Pick<Gateway, 'authenticate' | 'refusedUpstream' | 'follow'>
  /** What a key must have for it, all of them. */
  readonly scopes?: readonly string[]
}

/** Who calls. */
export type Caller = Pick<KeyEntry, 'clientId' | 'credentialId' | 'keyId' | 'environment' | 'scopes' | 'version'>
export type Entered = { readonly accepted: true; readonly caller: Caller } | Refused

export const scopesOf = ({ scopes = [] }: Pick<AdapterOptions, 'scopes'>): readonly string[] => checkScopes(scopes)

/** What a framework makes of a request: it knows which proxies are to be believed. */
export interface Described {
  readonly address: string | undefined
  readonly scheme: string | undefined
  readonly authority: string | undefined
  /** As it arrived. */
  readonly url: string | undefined
}

export const infoOf = (request: IncomingMessage, described: Described): RequestInfo => ({
  // Fastify's and Express's requests for tests have no headersDistinct.
  headers: request.headersDistinct ?? request.headers,
  method: request.method,
  ...described,
  body: bodyOf(request),
})

/** Takes out of the request what ends here, and puts in who calls. */
export function rewriteFields(request: IncomingMessage, identity: Readonly<Record<string, string>>): void {
  const { headers, headersDistinct, rawHeaders } = request
  for (const fields of [headers, headersDistinct]) for (const name in fields) if (endsHere(name)) delete fields[name]
  let kept = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name = '', value = ''] = [rawHeaders[i], rawHeaders[i + 1]]
    if (endsHere(name.toLowerCase())) continue
    rawHeaders[kept++] = name
    rawHeaders[kept++] = value
  }
  rawHeaders.length = kept
  for (const name in identity) {
    const value = identity[name] ?? ''
    headers[name] = value
    if (headersDistinct !== undefined) headersDistinct[name] = [value]
    rawHeaders.push(name, value)
  }
}

/** The moment before the head of the answer is sent: the notice goes with it, and refusals of the API behind are counted. */
function beforeHead(response: ServerResponse, seen: (status: number) => void): void {
  const { writeHead } = response
  response.writeHead = function (this: ServerResponse, ...given: Parameters<typeof writeHead>) {
    response.writeHead = writeHead
    const fields = given.find((each) => typeof each === 'object') as Record<string, string> | undefined
    if (fields !== undefined && !Array.isArray(fields))
      for (const [name, value] of Object.entries(fields))
        if (name.toLowerCase() === 'content-type') response.setHeader(name, value)
    seen(given[0])
    return writeHead.apply(response, given)
  } as typeof writeHead
}

/** Requests that are in already, and whether it was we who refused them after all: a route may ask for more than the whole app. */
const inside = new WeakMap<IncomingMessage, { readonly key: KeyEntry; refused: boolean }>()

/** @param info of the request; it is read before the request is changed */
export async function enter(
  { gateway }: AdapterOptions,
  scopes: readonly string[],
  info: RequestInfo,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<Entered> {
  const before = inside.get(request)
  if (before !== undefined) {
    const problem = forbids(before.key, info, scopes)
    before.refused = problem !== undefined
    return problem === undefined ? { accepted: true, caller: before.key } : { accepted: false, problem, responseHeaders: {} }
  }
  const answer = await decide(gateway, info, scopes)
  if (!answer.accepted) return answer
  const { key, responseHeaders } = answer
  const entry = { key, refused: false }
  inside.set(request, entry)
  rewriteFields(request, answer.identity)
  beforeHead(response, (status) => {
    for (const [name, value] of Object.entries(responseHeaders)) response.setHeader(name, value)
    if ((status === 401 || status === 403) && !entry.refused) gateway.refusedUpstream(key)
    if (isEventStream(response.getHeader('content-type'))) {
      const stop = gateway.follow(info, key.keyId, () => response.destroy(), scopes)
      response.once('close', stop)
    }
  })
  return { accepted: true, caller: key }
}

/** Header fields and body of a refusal, the same in every adapter. */
export const refusal = ({ problem, responseHeaders }: Refused) => problemAnswer(problem, responseHeaders)
