/** A claim whose answer may be lost: its secret is encrypted to a key that the client has made for it, and may be fetched again for a while. */

/** The public half of a key pair for one claim: an EC key on P-256 as a JSON Web Key (RFC 7517). */
export interface Recipient {
  readonly kty: 'EC'
  readonly crv: 'P-256'
  /** 32 bytes in base64url, as is `y`. */
  readonly x: string
  readonly y: string
}

/** How the secret is encrypted to it: a compact JWE (RFC 7516). */
export const CLAIM_JWE = { alg: 'ECDH-ES', enc: 'A256GCM' } as const

/** For how long after it was handed out the same recipient is given the same answer. */
export const CLAIM_REPEATABLE_MS = 10 * 60_000
