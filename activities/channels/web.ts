/** Webhooks (Standard Webhooks), and incoming webhooks as Slack has them. */
import { Webhook } from 'standardwebhooks'
import type { Sealer } from '../../registry/sealing.ts'
import type { Outbound, OutboundAnswer } from './outbound.ts'
import { Undelivered } from './undelivered.ts'

const LONGEST_RETRY_AFTER_MS = 3_600_000

/**
 * The secrets that a client may verify our webhooks with: derived, so that they are stored nowhere. While the key-encryption key
 * is being replaced there are two, and what we send is signed with both.
 */
export const webhookSecrets = (sealer: Sealer, clientId: string): string[] =>
  sealer.derivations('webhook', clientId).map((secret) => `whsec_${Buffer.from(secret, 'utf8').toString('base64')}`)

export interface WebMessage {
  readonly url: string
  readonly body: object
  readonly signal: AbortSignal
}

/** @throws Undelivered */
export async function sendWebhook(
  outbound: Outbound,
  { url, body, signal, id, secrets }: WebMessage & { id: string; secrets: readonly string[] },
): Promise<void> {
  const at = new Date()
  const text = JSON.stringify(body)
  const answer = await outbound.post(url, {
    headers: {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
      'webhook-signature': secrets.map((secret) => new Webhook(secret).sign(id, at, text)).join(' '),
    },
    body: text,
    signal,
  })
  refuseFailure(url, answer)
}

/** @throws Undelivered */
export async function sendToSlack(outbound: Outbound, { url, body, signal }: WebMessage): Promise<void> {
  const headers = { 'content-type': 'application/json' }
  refuseFailure(url, await outbound.post(url, { headers, body: JSON.stringify(body), signal }))
}

/** What a client's server answers that has a fault is 5xx; what it answers that does not want the message is 4xx. */
function refuseFailure(url: string, { status, retryAfter }: OutboundAnswer): void {
  if (status >= 200 && status <= 299) return
  const refused = status >= 400 && status <= 499 && status !== 408 && status !== 425 && status !== 429
  throw new Undelivered(`${new URL(url).host} answered ${status}`, { refused, retryAfterMs: millisecondsOf(retryAfter) })
}

/** Seconds, or a date (RFC 9110). */
function millisecondsOf(retryAfter: string | undefined): number | undefined {
  if (retryAfter === undefined) return undefined
  const ms = /^\d{1,9}$/.test(retryAfter) ? Number(retryAfter) * 1000 : Date.parse(retryAfter) - Date.now()
  return Number.isFinite(ms) && ms > 0 ? Math.min(ms, LONGEST_RETRY_AFTER_MS) : undefined
}
