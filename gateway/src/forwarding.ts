/** Which header fields cross the gateway, in either direction. */
import type { IncomingMessage } from 'node:http'
import { HEADERS } from '@keyturn/contract'

/** RFC 9110 section 7.6.1, and what old programs send in its stead. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'trailers',
  'transfer-encoding',
  'upgrade',
])
/** The key itself stays here. `host` is the API's own, `expect` is answered by the gateway. */
const KEPT_HERE = new Set(['authorization', 'x-api-key', 'host', 'expect'])
const ORIGIN = new Set(['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-port', 'x-real-ip'])

/** Fields that a `Connection` field calls hop-by-hop. */
const named = (connection: string | undefined): Set<string> =>
  new Set((connection ?? '').split(',').map((name) => name.trim().toLowerCase()))

/** `Keyturn_Client` is the same as `Keyturn-Client` to a program that reads header fields from CGI variables. */
const isOurs = (name: string): boolean => name.replaceAll('_', '-').startsWith('keyturn-')
const KEYS = new Set(['authorization', 'x-api-key'])
/** What a handler in our own process must not see of a request: the key, and what the caller says of who it is. In any case. */
export function endsHere(field: string): boolean {
  // Asked of every field of every request; most begin with another letter.
  const first = field.charCodeAt(0) | LOWER_CASE
  if (first !== LETTER_A && first !== LETTER_K && first !== LETTER_X) return false
  const name = field.toLowerCase()
  return first === LETTER_K ? isOurs(name) : KEYS.has(name.replaceAll('_', '-'))
}
const LOWER_CASE = 0x20
const [LETTER_A, LETTER_K, LETTER_X] = [97, 107, 120]
const isSecret = (name: string): boolean => KEPT_HERE.has(name.replaceAll('_', '-'))

const EVENT_STREAM = /^\s*text\/event-stream\s*(?:;|$)/i
/** Of the value of a `Content-Type` field: such an answer stays open. */
export const isEventStream = (type: unknown): boolean => type !== undefined && EVENT_STREAM.test(String(type))

/**
 * The fields of the request to the API, names and values in turn.
 * @param trusted whether a proxy before us is believed on where the request came from
 */
export function requestFields(
  { rawHeaders: raw, headers: parsed, socket }: IncomingMessage,
  identity: Readonly<Record<string, string>>,
  trusted: boolean,
): string[] {
  const address = socket.remoteAddress ?? 'unknown'
  const dropped = named(parsed.connection)
  const fields: string[] = []
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? ''
    const lower = name.toLowerCase()
    if (HOP_BY_HOP.has(lower) || dropped.has(lower) || isSecret(lower) || isOurs(lower)) continue
    if (ORIGIN.has(lower) && (!trusted || lower === 'x-forwarded-for')) continue
    fields.push(name, raw[i + 1] ?? '')
  }
  const before = trusted ? parsed['x-forwarded-for'] : undefined
  fields.push('x-forwarded-for', before === undefined ? address : `${String(before)}, ${address}`)
  if (!trusted || parsed['x-forwarded-proto'] === undefined) fields.push('x-forwarded-proto', 'http')
  if (parsed.host !== undefined && (!trusted || parsed['x-forwarded-host'] === undefined))
    fields.push('x-forwarded-host', parsed.host)
  for (const [name, value] of Object.entries(identity)) fields.push(name, value)
  return fields
}

/** The fields of the response to the caller. */
export function responseFields(
  upstream: Readonly<Record<string, string | string[] | undefined>>,
  added: Readonly<Record<string, string>>,
): Record<string, string | string[]> {
  const connection = upstream['connection']
  const dropped = named(typeof connection === 'string' ? connection : connection?.join(','))
  const fields: Record<string, string | string[]> = {}
  for (const [name, value] of Object.entries(upstream)) {
    if (value === undefined || HOP_BY_HOP.has(name) || dropped.has(name) || name === HEADERS.rotation) continue
    fields[name] = value
  }
  return Object.assign(fields, added)
}

/**
 * The caller's address (or scheme, or host): of the connection or, behind `hops` trusted proxies, what the outermost of them saw. Entries
 * further to the left are what the caller made up.
 */
export function callerAddress(
  connection: string | undefined,
  forwardedFor: string | undefined,
  hops: number,
): string | undefined {
  if (hops === 0 || forwardedFor === undefined) return connection
  const seen = forwardedFor.split(',').map((part) => part.trim())
  return seen[Math.max(0, seen.length - hops)] ?? connection
}
