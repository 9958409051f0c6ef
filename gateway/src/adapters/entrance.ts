/** What the adapters for Node's own requests have in common: the decision, and what follows from it for request and response. */
import { IncomingMessage, type ServerResponse } from 'node:http'
import type { Accepted, Refused } from '../authenticate.ts'
import { StreamedBody } from '../body.ts'
import { decide } from '../decide.ts'
import { endsHere, isEventStream } from '../forwarding.ts'
import type { Gateway } from '../gateway.ts'
import { problemAnswer } from '../incoming.ts'
import type { KeyEntry } from '../key-cache.ts'
import { checkScopes, forbids } from '../permissions.ts'
import type { RequestInfo } from '../request-info.ts'
import { followUpgrade } from './follow-upgrade.ts'

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
  headers: fieldsOf(request),
  method: request.method,
  ...described,
  body: new StreamedBody(request),
})

/** As `headersDistinct` has them, which Node would make beside `headers`: this is in the path of every request. */
function fieldsOf({ rawHeaders, headers }: IncomingMessage): RequestInfo['headers'] {
  // Requests for tests may have none.
  if (rawHeaders.length === 0) return headers
  const fields: Record<string, string | string[]> = Object.create(null)
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] ?? '').toLowerCase()
    const value = rawHeaders[i + 1] ?? ''
    const before = fields[name]
    fields[name] = before === undefined ? value : [before, value].flat()
  }
  return fields
}

/** Takes out of the request what ends here, and puts in who calls. */
export function rewriteFields(request: IncomingMessage, identity: Readonly<Record<string, string>>): void {
  const headers = withoutOurs(request)
  const { rawHeaders } = request
  let kept = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name = '', value = ''] = [rawHeaders[i], rawHeaders[i + 1]]
    if (endsHere(name)) continue
    rawHeaders[kept++] = name
    rawHeaders[kept++] = value
  }
  rawHeaders.length = kept
  for (const name in identity) {
    const value = identity[name] ?? ''
    headers[name] = value
    rawHeaders.push(name, value)
  }
  // Few ask for it, and what Node has made of it may hold the key.
  Object.defineProperty(request, 'headersDistinct', DISTINCT)
}

/** What the request has for `headers` from now on. A new object costs half of what it does to take fields out of one. */
function withoutOurs(request: IncomingMessage): IncomingMessage['headers'] {
  const { headers } = request
  if (!(request instanceof IncomingMessage)) {
    // HTTP/2 has nothing but the one.
    for (const name in headers) if (endsHere(name)) delete headers[name]
    return headers
  }
  const kept: IncomingMessage['headers'] = {}
  for (const name in headers) if (!endsHere(name)) kept[name] = headers[name]
  request.headers = kept
  return kept
}

function distinct(this: IncomingMessage): Record<string, string[]> {
  const fields: Record<string, string[]> = Object.create(null)
  for (const [name, value] of Object.entries(fieldsOf(this))) fields[name] = [value ?? []].flat()
  return fields
}
const DISTINCT = { configurable: true, enumerable: true, get: distinct }

/** A request that has been let in, and what becomes of its answer. */
interface Entry {
  readonly key: KeyEntry
  readonly info: RequestInfo
  /** What is asked for on the way in: of the whole app and then, where it says more, of the route. */
  readonly scopes: string[]
  readonly gateway: AdapterOptions['gateway']
  readonly responseHeaders: Accepted['responseHeaders']
  readonly writeHead: ServerResponse['writeHead']
  /** It was we who refused it after all: a route may ask for more than the whole app. */
  refused: boolean
}
const ENTRY = Symbol('keyturn')
type Entering<T> = T & { [ENTRY]?: Entry }

/** The moment before the head of the answer is sent: the notice goes with it, and refusals of the API behind are counted. */
function writeHead(this: Entering<ServerResponse>, ...given: Parameters<ServerResponse['writeHead']>): ServerResponse {
  const entry = this[ENTRY]
  if (entry === undefined) throw new Error('this response has not been entered')
  const { gateway, key, info, scopes, responseHeaders } = entry
  this.writeHead = entry.writeHead
  const [status] = given
  for (const name in responseHeaders) this.setHeader(name, responseHeaders[name] ?? '')
  if ((status === 401 || status === 403) && !entry.refused) gateway.refusedUpstream(key)
  if (!this.destroyed && isEventStream(contentTypeOf(given) ?? this.getHeader('content-type'))) {
    const stop = gateway.follow(info, key, () => this.destroy(), scopes)
    this.once('close', stop)
  }
  return entry.writeHead.apply(this, given)
}

/** What `writeHead` is given beside the status: fields by name, or names and values in turn or in pairs. */
function contentTypeOf(given: readonly unknown[]): unknown {
  const fields = given.at(-1)
  if (typeof fields !== 'object' || fields === null) return undefined
  if (Array.isArray(fields)) {
    const flat: readonly unknown[] = Array.isArray(fields[0]) ? fields.flat() : fields
    return flat.find((_, i) => i % 2 === 1 && isContentType(String(flat[i - 1])))
  }
  for (const name in fields) if (isContentType(name)) return fields[name as keyof typeof fields]
  return undefined
}
const CONTENT_TYPE = 'content-type'
const isContentType = (name: string): boolean => name.length === CONTENT_TYPE.length && name.toLowerCase() === CONTENT_TYPE

/**
 * What shows a token is decided on at once.
 * @param info of the request; it is read before the request is changed
 */
export function enter(
  { gateway }: AdapterOptions,
  scopes: readonly string[],
  info: RequestInfo,
  request: Entering<IncomingMessage>,
  response: Entering<ServerResponse>,
): Entered | Promise<Entered> {
  const before = request[ENTRY]
  if (before !== undefined) {
    const problem = forbids(before.key, info, scopes)
    before.refused = problem !== undefined
    if (problem !== undefined) return { accepted: false, problem, responseHeaders: {} }
    before.scopes.push(...scopes)
    return { accepted: true, caller: before.key }
  }
  const answer = decide(gateway, info, scopes)
  if (answer instanceof Promise)
    return answer.then((decided) => (decided.accepted ? letIn(gateway, scopes, info, decided, request, response) : decided))
  return answer.accepted ? letIn(gateway, scopes, info, answer, request, response) : answer
}

function letIn(
  gateway: AdapterOptions['gateway'],
  scopes: readonly string[],
  info: RequestInfo,
  { key, identity, responseHeaders }: Accepted,
  request: Entering<IncomingMessage>,
  response: Entering<ServerResponse>,
): Entered {
  const asked = [...scopes]
  const entry: Entry = { key, info, scopes: asked, gateway, responseHeaders, writeHead: response.writeHead, refused: false }
  request[ENTRY] = entry
  response[ENTRY] = entry
  rewriteFields(request, identity)
  response.writeHead = writeHead as ServerResponse['writeHead']
  followUpgrade((ended) => gateway.follow(info, key, ended, asked), request, response)
  return { accepted: true, caller: key }
}

/** Header fields and body of a refusal, the same in every adapter. */
export const refusal = ({ problem, responseHeaders }: Refused) => problemAnswer(problem, responseHeaders)
