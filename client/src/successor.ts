/** One question to the API: for a key, with a claim or with the key that it replaces. It may be asked again, and the answer is the same. */

import { utf8 } from './bytes.ts'
import { claimBody, openJwe } from './key-pairs.ts'
import { shownBy, type ToSign } from './signing.ts'
import type { PendingClaim, PrivateJwk, StoredKey } from './store.ts'

export type Answer =
  | { readonly outcome: 'key'; readonly key: StoredKey }
  /** For good; a problem code. */
  | { readonly outcome: 'refused'; readonly code: string }
  | { readonly outcome: 'later'; readonly detail: string; readonly afterMs?: number }

export interface Asking {
  /** Of the control plane, without a slash at the end. */
  readonly api: string
  readonly fetch: typeof fetch
  readonly timeoutMs: number
  readonly now: () => number
}

const LATER = new Set([408, 425, 429])

const textOf = (body: unknown, name: string): string | undefined => {
  const value: unknown = typeof body === 'object' && body !== null ? (body as Record<string, unknown>)[name] : undefined
  return typeof value === 'string' ? value : undefined
}

/** With the claim that was handed over, or else with the old key. */
export const askForSuccessor = (asking: Asking, old: StoredKey, pending: PendingClaim, signal: AbortSignal): Promise<Answer> => {
  const { claim, privateKey } = pending
  if (claim !== undefined) return askWithClaim(asking, old.kind, { claim, privateKey }, signal)
  const show = (toSign: ToSign) => shownBy(old, toSign)
  return ask(asking, { path: '/v1/successor', kind: old.kind, privateKey, show }, signal)
}

export const askWithClaim = (
  asking: Asking,
  kind: StoredKey['kind'],
  { claim, privateKey }: Pick<PendingClaim, 'privateKey'> & { readonly claim: string },
  signal: AbortSignal,
): Promise<Answer> => ask(asking, { path: `/v1/claims/${claim}`, kind, privateKey, show: async () => ({}) }, signal)

interface Question {
  readonly path: string
  readonly kind: StoredKey['kind']
  readonly privateKey: PrivateJwk
  readonly show: (toSign: ToSign) => Promise<Readonly<Record<string, string>>>
}

async function ask(
  { api, fetch, timeoutMs, now }: Asking,
  { path, kind, privateKey, show }: Question,
  signal: AbortSignal,
): Promise<Answer> {
  const url = api + path
  const body = utf8(JSON.stringify(claimBody(privateKey)))
  const shown = await show({ method: 'POST', url, body, now: now() })
  let status: number
  let retryAfter: string | null
  let answer: unknown
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { ...shown, 'content-type': 'application/json' },
      body,
      redirect: 'error',
      signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
    })
    status = response.status
    retryAfter = response.headers.get('retry-after')
    answer = await response.json().catch(() => undefined)
  } catch (error) {
    if (signal.aborted) throw signal.reason
    return { outcome: 'later', detail: `the API does not answer: ${error instanceof Error ? error.message : String(error)}` }
  }
  const code = textOf(answer, 'code') ?? `status-${status}`
  if (status >= 500 || LATER.has(status)) {
    const afterMs = Number(retryAfter ?? Number.NaN) * 1_000
    return { outcome: 'later', detail: `the API answers ${code}`, ...(afterMs > 0 ? { afterMs } : {}) }
  }
  if (status !== 200) return { outcome: 'refused', code }
  return readKey(answer, kind, privateKey)
}

async function readKey(answer: unknown, kind: StoredKey['kind'], privateKey: PendingClaim['privateKey']): Promise<Answer> {
  const keyId = textOf(answer, 'keyId')
  if (keyId === undefined) return { outcome: 'later', detail: 'the answer of the API has no keyId' }
  if (kind === 'ed25519') return { outcome: 'key', key: { keyId, kind, privateKey } }
  const jwe = textOf(answer, 'jwe')
  if (jwe === undefined) return { outcome: 'later', detail: 'the answer of the API has no jwe' }
  try {
    return { outcome: 'key', key: { keyId, kind, token: await openJwe(jwe, privateKey) } }
  } catch {
    return { outcome: 'later', detail: 'the answer of the API is encrypted to somebody else' }
  }
}
