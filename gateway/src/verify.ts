/** Is this token accepted? The hot path: one SHA-256, one look-up in memory, a few comparisons, and no way to anywhere else. */
import { hash } from 'node:crypto'
import type { Environment } from '@keyturn/contract'
import type { KeyCache, KeyEntry } from './key-cache.ts'

/** Longer than any token, also of those imported from elsewhere. Refused before anything is computed. */
export const MAX_TOKEN_LENGTH = 512

/**
 * - `accepted`
 * - `refused`: the key is known, and its state or its times forbid it
 * - `wrong-environment`: the key is known, of an environment that this gateway does not serve
 * - `undecided`: a session token, of a signing key that is just being asked for, or while the signing keys are stale
 * - `unknown`: no key. Why not is not looked for: that would take longer than to refuse a key that has ended, and tell the two apart
 */
export type Decision =
  | { readonly outcome: 'accepted'; readonly key: KeyEntry }
  | { readonly outcome: 'refused'; readonly key: KeyEntry; readonly reason: RefusalReason }
  | { readonly outcome: 'wrong-environment'; readonly key: KeyEntry }
  | { readonly outcome: 'undecided'; readonly key: KeyEntry | undefined }
  | { readonly outcome: 'unknown' }

/** `scope`: a session that may do more than its key. */
export type RefusalReason = 'state' | 'not-yet-valid' | 'expired' | 'scope'

export const UNKNOWN: Decision = { outcome: 'unknown' }

/** @param now ms since the epoch */
export type Verify = (token: string, now: number) => Decision

/** Whether a key that is known is accepted now. */
export function judge(key: KeyEntry, now: number, environments: readonly Environment[]): Decision {
  // Mostly there is one, and comparing with it costs nothing.
  if (key.environment !== environments[0] && !environments.includes(key.environment)) return { outcome: 'wrong-environment', key }
  if (key.state !== 'active') return { outcome: 'refused', key, reason: 'state' }
  if (now < key.notBefore) return { outcome: 'refused', key, reason: 'not-yet-valid' }
  if (key.expiresAt !== undefined && now >= key.expiresAt) return { outcome: 'refused', key, reason: 'expired' }
  return { outcome: 'accepted', key }
}

export function createVerify(cache: KeyCache, environments: readonly Environment[]): Verify {
  return (token, now) => {
    if (token.length > MAX_TOKEN_LENGTH) return UNKNOWN
    const key = cache.find(hash('sha256', token, 'base64'))
    return key === undefined ? UNKNOWN : judge(key, now, environments)
  }
}
