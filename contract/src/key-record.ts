import Type from 'typebox'
import { ENVIRONMENTS } from './environment.ts'
import { CLIENT_ID_PATTERN, type ClientId, CREDENTIAL_ID_PATTERN, type CredentialId, KEY_ID_PATTERN, type KeyId } from './ids.ts'
import { KEY_STATES } from './key-state.ts'

/** The format alone would let leap seconds and offsets through: a leap second is no JavaScript time, and a NaN compares with nothing. */
export const Timestamp = Type.String({
  format: 'date-time',
  pattern: '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]([.][0-9]{1,9})?Z$',
  description: 'RFC 3339 in UTC: with a Z, without leap seconds',
})
export const EnvironmentSchema = Type.Enum([...ENVIRONMENTS])
export const ScopePattern = '^[a-z0-9][a-z0-9._-]*(:([a-z0-9][a-z0-9._-]*|\\*))*$'
const SCOPE = new RegExp(ScopePattern)
export const isScope = (text: string): boolean => SCOPE.test(text)
export const ScopeSchema = Type.String({ pattern: ScopePattern, maxLength: 100 })

const Strict = { additionalProperties: false } as const
export const BearerVerifier = Type.Object(
  {
    kind: Type.Literal('bearer'),
    sha256: Type.String({ pattern: '^[A-Za-z0-9+/]{43}=$', description: 'SHA-256 of the whole token, base64 with padding' }),
  },
  Strict,
)
export type BearerVerifier = Type.Static<typeof BearerVerifier>

/** The signing key, which is the token, sealed with AES-256-GCM under a key-encryption key that only the control plane and gateways hold. */
export const HmacVerifier = Type.Object(
  {
    kind: Type.Literal('hmac-sha256'),
    kekId: Type.String({ pattern: '^[0-9a-f]{8}$', description: 'which key-encryption key' }),
    nonce: Type.String({ pattern: '^[A-Za-z0-9+/]{16}$', description: '12 bytes, base64' }),
    ciphertext: Type.String({
      pattern: '^[A-Za-z0-9+/]+={0,2}$',
      minLength: 24,
      maxLength: 1_024,
      description: 'the tag at its end, base64 with padding',
    }),
    revision: Type.Integer({ minimum: 1, description: "the key's revision when it was sealed; associated data, as the key id" }),
  },
  Strict,
)
export type HmacVerifier = Type.Static<typeof HmacVerifier>

export const Ed25519Verifier = Type.Object(
  {
    kind: Type.Literal('ed25519'),
    publicKey: Type.Optional(
      Type.String({
        pattern: '^[A-Za-z0-9+/]{43}=$',
        description: '32 bytes (RFC 8032), base64 with padding; absent until the client has enrolled it',
      }),
    ),
  },
  Strict,
)
export type Ed25519Verifier = Type.Static<typeof Ed25519Verifier>

/** What a gateway needs to check a key, and nothing more. */
export const Verifier = Type.Union([BearerVerifier, HmacVerifier, Ed25519Verifier])
export type Verifier = Type.Static<typeof Verifier>

/** By which a key is found whose token is shown; the others are found by their key id. */
export const shownSha256 = (verifier: Verifier): string | undefined => (verifier.kind === 'bearer' ? verifier.sha256 : undefined)

/** Associated data of a sealed signing key: it opens for its key, as it was sealed, and nothing else. */
export const verifierAad = (keyId: string, revision: number): string => `keyturn/verifier/${keyId}/${revision}`

/** HTTP methods by which a credential may be restricted. */
export const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const
/**
 * From where, with which methods, and whether in order alone a credential's keys may be used. What is absent is not restricted. Readers are lenient,
 * so that what they can not read allows nobody instead of hiding what else its event says, a revocation perhaps.
 */
export const Allow = Type.Object({
  addresses: Type.Optional(
    Type.Array(Type.String({ maxLength: 100 }), { maxItems: 1_000, description: 'addresses and CIDR blocks, IPv4 and IPv6' }),
  ),
  methods: Type.Optional(Type.Array(Type.String({ maxLength: 100 }), { maxItems: 100, description: 'HTTP methods' })),
  sequence: Type.Optional(
    Type.String({ maxLength: 100, description: '`required`: every signed request has to be numbered (`X-Sequence`)' }),
  ),
})
export type Allow = Type.Static<typeof Allow>

/** The whole state of one key: `data` of every event on the keys topic. Unknown fields are ignored by readers. */
export const KeyRecord = Type.Object({
  keyId: Type.Unsafe<KeyId>(Type.String({ pattern: KEY_ID_PATTERN })),
  credentialId: Type.Unsafe<CredentialId>(Type.String({ pattern: CREDENTIAL_ID_PATTERN })),
  clientId: Type.Unsafe<ClientId>(Type.String({ pattern: CLIENT_ID_PATTERN })),
  environment: EnvironmentSchema,
  scopes: Type.Array(ScopeSchema, { maxItems: 100 }),
  version: Type.Integer({ minimum: 1, description: 'counts the keys of a credential: 1, 2, 3…' }),
  state: Type.Enum([...KEY_STATES]),
  revision: Type.Integer({ minimum: 1, description: 'counts the changes of this key; the highest wins' }),
  verifier: Verifier,
  notBefore: Timestamp,
  expiresAt: Type.Optional(Timestamp),
  sunsetAt: Type.Optional(Timestamp),
  successor: Type.Optional(Type.Integer({ minimum: 2, description: 'the version that replaces this key' })),
  deprecatedAt: Type.Optional(Timestamp),
  allow: Type.Optional(Allow),
})
export type KeyRecord = Type.Static<typeof KeyRecord>
