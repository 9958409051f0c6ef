/**
 * Webhooks as Standard Webhooks signs them (HMAC-SHA-256, `v1`), each taken once. A provider sends a message anew, with the same id, until it is answered
 * with 2xx: so the id of one that could not be dealt with has to be forgotten.
 */
import { type Bytes, fromBase64, utf8 } from './bytes.ts'

export interface WebhookOptions {
  /** `whsec_…`; more than one while one is being replaced. */
  readonly secret: string | readonly string[]
  /** How old a message may be, and how far ahead of this clock. 5 min. */
  readonly toleranceMs?: number
  /** Where ids are remembered: in this process unless given. */
  readonly ids?: SeenIds
  /** ms since the epoch. */
  readonly now?: () => number
}

/** Remembers ids of messages. Several processes that receive webhooks want one of theirs in common. */
export interface SeenIds {
  /** @returns false when it is remembered already; both in one step. */
  add(id: string, untilMs: number): boolean | Promise<boolean>
  forget(id: string): void | Promise<void>
}

export type WebhookFlaw =
  /** A header field is missing, or not what it should be. */
  | 'malformed'
  | 'too-old'
  | 'too-new'
  | 'signature-wrong'
  /** It has been taken before: answer 200, or it is sent again. */
  | 'repeated'

export class WebhookError extends Error {
  override readonly name = 'WebhookError'
  readonly code: WebhookFlaw

  constructor(code: WebhookFlaw, message: string) {
    super(message)
    this.code = code
  }
}

export interface WebhookMessage {
  readonly id: string
  readonly at: Date
  readonly body: string
}

type Fields = Headers | Readonly<Record<string, string | readonly string[] | undefined>>

export interface WebhookVerifier {
  /**
   * @param body as it was received, every byte of it
   * @throws WebhookError
   */
  verify(body: string | Uint8Array, headers: Fields): Promise<WebhookMessage>
  /** Of a message that could not be dealt with: it will be sent again, and is taken then. */
  forget(id: string): Promise<void>
}

const TOLERANCE_MS = 5 * 60_000
const PREFIX = 'whsec_'
const SECONDS = /^[0-9]{1,12}$/
/** No sender has more keys than this at one time; each costs a hash of the body. */
const MOST_SIGNATURES = 10

/** Ids in the memory of this process; those whose time is over go with the next one that comes. */
export function seenIds(now: () => number = Date.now): SeenIds {
  const ids = new Map<string, number>()
  return {
    add(id, untilMs) {
      for (const [old, until] of ids) if (until < now()) ids.delete(old)
      if (ids.has(id)) return false
      ids.set(id, untilMs)
      return true
    },
    forget(id) {
      ids.delete(id)
    },
  }
}

export function webhookVerifier(options: WebhookOptions): WebhookVerifier {
  const { secret, toleranceMs = TOLERANCE_MS, now = Date.now, ids = seenIds(now) } = options
  const keys = Promise.all([secret].flat().map(importSecret))
  // Whoever makes a verifier hears of a wrong secret with the first message, not as an unhandled rejection.
  keys.catch(() => undefined)
  return {
    async verify(body, headers) {
      const id = field(headers, 'webhook-id')
      const timestamp = field(headers, 'webhook-timestamp')
      const signatures = field(headers, 'webhook-signature')
      if (id.includes('.') || !SECONDS.test(timestamp))
        throw new WebhookError('malformed', 'webhook-id or webhook-timestamp is not one')
      const at = Number(timestamp) * 1_000
      if (at < now() - toleranceMs) throw new WebhookError('too-old', 'the message was signed too long ago')
      if (at > now() + toleranceMs) throw new WebhookError('too-new', 'the message is ahead of this clock')
      const bytes = typeof body === 'string' ? utf8(body) : body
      const signed = joined(utf8(`${id}.${timestamp}.`), bytes)
      if (!(await fits(await keys, signatures, signed))) throw new WebhookError('signature-wrong', 'no signature fits')
      // Remembered for as long as its time would let it in again.
      if (!(await ids.add(id, at + toleranceMs))) throw new WebhookError('repeated', 'the message has been taken before')
      return { id, at: new Date(at), body: typeof body === 'string' ? body : new TextDecoder().decode(body) }
    },
    async forget(id) {
      await ids.forget(id)
    },
  }
}

type HmacKey = Awaited<ReturnType<typeof importSecret>>

async function importSecret(secret: string) {
  let bytes: Bytes
  try {
    bytes = fromBase64(secret.startsWith(PREFIX) ? secret.slice(PREFIX.length) : secret)
  } catch {
    throw new TypeError('the secret of the webhook is not base64 after whsec_')
  }
  if (bytes.length === 0) throw new TypeError('the secret of the webhook is empty')
  return crypto.subtle.importKey('raw', bytes, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify'])
}

async function fits(keys: readonly HmacKey[], signatures: string, signed: Bytes): Promise<boolean> {
  for (const each of signatures.split(' ').slice(0, MOST_SIGNATURES)) {
    const [version, base64 = ''] = each.split(',')
    if (version !== 'v1') continue
    let signature: Bytes
    try {
      signature = fromBase64(base64)
    } catch {
      continue
    }
    for (const key of keys) if (await crypto.subtle.verify('HMAC', key, signature, signed)) return true
  }
  return false
}

function field(headers: Fields, name: string): string {
  const value = headers instanceof Headers ? headers.get(name) : own(headers, name)
  if (typeof value === 'string' && value !== '') return value
  throw new WebhookError('malformed', `${name} is missing`)
}

const own = (headers: Readonly<Record<string, unknown>>, name: string): unknown =>
  Object.entries(headers).find(([key]) => key.toLowerCase() === name)?.[1]

function joined(first: Uint8Array, second: Uint8Array): Bytes {
  const bytes = new Uint8Array(first.length + second.length)
  bytes.set(first)
  bytes.set(second, first.length)
  return bytes
}
