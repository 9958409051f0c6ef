/**
 * Session tokens: a key traded for a short-lived, narrowed token that a gateway verifies without a look-up (RFC 7519, RFC 9068). It is
 * bound to its key and dies with it.
 */
import Type from 'typebox'
import type { Environment } from './environment.ts'
import { CLIENT_ID_PATTERN, type ClientId, KEY_ID_PATTERN, type KeyId } from './ids.ts'

export const JWKS_PATH = '/.well-known/jwks.json'
export const SESSION_TYPE = 'at+jwt'
export const SESSION_ISSUER = 'keyturn'
export const DEFAULT_SESSION_MS = 600_000
export const MOST_SESSION_MS = 3_600_000

/** Whom a session is for: the gateways of one environment. */
export const sessionAudience = (environment: Environment): string => `keyturn/${environment}`

/** A JSON Web Token in compact form; both its parts begin with `{"`. What looks like one is never looked up as a key. */
export const isSessionToken = (token: string): boolean => token.startsWith('eyJ') && /^eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+$/.test(token)

export const SessionClaims = Type.Object({
  iss: Type.Literal(SESSION_ISSUER),
  aud: Type.String(),
  sub: Type.Unsafe<ClientId>(Type.String({ pattern: CLIENT_ID_PATTERN })),
  client_id: Type.String(),
  key_id: Type.Unsafe<KeyId>(Type.String({ pattern: KEY_ID_PATTERN, description: 'the key that it dies with' })),
  scope: Type.String({ description: 'separated by spaces (RFC 8693 section 4.2)' }),
  jti: Type.String({ minLength: 1 }),
  iat: Type.Integer(),
  exp: Type.Integer(),
})
export type SessionClaims = Type.Static<typeof SessionClaims>

/** The public half of a signing key (RFC 8037); `kid` is its thumbprint (RFC 7638). */
export const SessionJwk = Type.Object({
  kty: Type.Literal('OKP'),
  crv: Type.Literal('Ed25519'),
  x: Type.String({ pattern: '^[0-9A-Za-z_-]{43}$' }),
  kid: Type.String({ pattern: '^[0-9A-Za-z_-]{43}$' }),
  alg: Type.Literal('EdDSA'),
  use: Type.Literal('sig'),
})
export const SessionKeySet = Type.Object({ keys: Type.Array(SessionJwk, { maxItems: 64 }) })
export type SessionKeySet = Type.Static<typeof SessionKeySet>
