/** One question to the API: for the key that replaces the one that is held. It may be asked again, and the answer is the same. */

import { utf8 } from './bytes.ts'
import { claimBody, openJwe } from './key-pairs.ts'
import { shownBy } from './signing.ts'
import type { PendingClaim, StoredKey } from './store.ts'

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

/** @param old shown where the claim has no code of its own */
export async function askForSuccessor(
  { api, fetch, timeoutMs, now }: Asking,
  old: StoredKey,
  { claim, privateKey }: PendingClaim,
  signal: AbortSignal,
): Promise<Answer> {
  const url = claim === undefined ? `${api}/v1/successor` : `${api}/v1/claims/${claim}`
  const body = utf8(JSON.stringify(claimBody(privateKey)))
  const shown = claim === undefined ? await shownBy(old, { method: 'POST', url, body, now: now() }) : {}
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
  return readKey(answer, old.kind, privateKey)
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
