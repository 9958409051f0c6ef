/**
 * Requests to the control plane that a client has signed (RFC 9421), decided on by what gateways decide by: the same reader, the same keys. Nonces
 * are remembered in PostgreSQL, so that a request counts once however many API processes there are.
 */
import type { KeyId } from '@keyturn/contract'
import type { CheckedSignature, SignedRequest } from '../api/ports.ts'
import { KeyCache } from '../gateway/src/key-cache.ts'
import type { Log } from '../gateway/src/log.ts'
import { createOriginOf } from '../gateway/src/public-address.ts'
import { isTimely } from '../gateway/src/replay/guard.ts'
import { fits } from '../gateway/src/signatures/content-digest.ts'
import { Flaw } from '../gateway/src/signatures/flaw.ts'
import { readMessageSignature } from '../gateway/src/signatures/message-signature.ts'
import { SigningKeys } from '../gateway/src/signatures/signing-keys.ts'
import type { Database } from '../registry/database.ts'
import { getKey, toKeyRecord } from '../registry/keys.ts'
import { takeNonce } from '../registry/nonces.ts'

const WINDOW_MS = 60_000
/** The clocks of our processes differ by no more. */
const CLOCK_SPREAD_MS = 5 * 60_000

export interface SignatureCheckOptions {
  readonly db: Database
  readonly keks: readonly Buffer[]
  /** Where clients reach the API: signatures are made over it. */
  readonly publicUrl: () => string
  readonly clock: () => Date
  readonly log: Log
}

export function createSignatureCheck({ db, keks, publicUrl, clock, log }: SignatureCheckOptions) {
  return async ({ method, url, headers, body }: SignedRequest): Promise<CheckedSignature> => {
    const at = new URL(publicUrl())
    const target = { headers, method, url: at.pathname.replace(/\/$/, '') + url, ...createOriginOf([at.href])({}) }
    const signed = readMessageSignature(target, body !== undefined)
    if (signed instanceof Flaw) return { code: 'signature-malformed', detail: signed.detail }
    const { keyId, kind, signature, nonce, created, expires, base, digests } = signed
    const known = await getKey(db, keyId as KeyId)
    const cache = new KeyCache()
    if (known !== undefined) cache.apply(toKeyRecord(known))
    // Of an RFC 9421 signature the base is a text.
    const checked = new SigningKeys({ cache, keks, log }).check(keyId, kind, typeof base === 'string' ? base : '', signature)
    if (checked === 'unopened') throw new Error(`the signing key ${keyId} is sealed under a key-encryption key that is not here`)
    if (checked === 'wrong' || known?.state !== 'active')
      return { code: 'invalid-key', detail: 'The signature does not fit, or the key is not accepted.' }
    const now = clock().getTime()
    if (!isTimely(created, now, WINDOW_MS) || (expires !== undefined && now > expires * 1_000))
      return { code: 'request-stale', detail: 'Sign anew; compare the clock of the client with a time server.' }
    if (digests !== undefined && !fits(digests, Buffer.from(body ?? '')))
      return { code: 'digest-mismatch', detail: 'The body does not fit its Content-Digest.' }
    const forgetAt = new Date(created * 1_000 + WINDOW_MS + CLOCK_SPREAD_MS)
    if (!(await takeNonce(db, { keyId: known.keyId, nonce, forgetAt })))
      return { code: 'request-replayed', detail: 'Each request needs a nonce of its own.' }
    return { keyId: known.keyId }
  }
}
