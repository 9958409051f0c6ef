/** Session tokens: a key is traded for one that lives for minutes, can do less, and dies with the key. */
import { createPrivateKey, type KeyObject } from 'node:crypto'
import {
  DEFAULT_SESSION_MS,
  isSessionToken,
  JWKS_PATH,
  MOST_SESSION_MS,
  parseToken,
  randomBase62,
  ScopeSchema,
  SESSION_ISSUER,
  SESSION_TYPE,
  type SessionClaims,
  SessionKeySet,
  sessionAudience,
  uncovered,
} from '@keyturn/contract'
import { SignJWT } from 'jose'
import Type from 'typebox'
import { keyForSession } from '../registry/sessions.ts'
import { publishedKeys, signingKeyAt } from '../registry/signing-keys.ts'
import { bearer } from './operator.ts'
import { duration } from './policy.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import type { Api } from './routes.ts'
import { Duration, Input, Problems } from './schemas.ts'
import { shownKey } from './shown-key.ts'

/** Gateways fetch the set every minute; a cache between must not make them wait longer. */
const JWKS_MAX_AGE_S = 60
const LONGEST_KEY = 512

const Session = Type.Object({
  token: Type.String({ description: 'a JSON Web Token: send it as a bearer token in the place of the key' }),
  keyId: Type.String(),
  scopes: Type.Array(Type.String()),
  expiresAt: Type.String({ format: 'date-time' }),
})

export function sessionRoutes(api: Api, deps: ApiDeps): void {
  const {
    db,
    sealer,
    clock,
    config: { sessionKeyPeriodMs: periodMs },
  } = deps
  const signers = new Map<string, KeyObject>()
  const signerAt = async (at: Date): Promise<{ kid: string; key: KeyObject }> => {
    const { kid, secret: d, publicKey: x } = await signingKeyAt(db, { sealer, periodMs, at })
    const key = signers.get(kid) ?? createPrivateKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x, d } })
    if (!signers.has(kid)) signers.clear()
    signers.set(kid, key)
    return { kid, key }
  }

  api.get(
    JWKS_PATH,
    {
      schema: {
        operationId: 'signingKeySet',
        summary: 'The public keys that session tokens are verified with',
        security: [],
        response: { 200: SessionKeySet, ...Problems },
      },
    },
    async (_request, reply) => {
      const keys = await publishedKeys(db, { sealer, periodMs, at: clock() })
      reply.header('cache-control', `public, max-age=${JWKS_MAX_AGE_S}`)
      return {
        keys: keys.map(({ kid, publicKey: x }) => ({
          kty: 'OKP' as const,
          crv: 'Ed25519' as const,
          x,
          kid,
          alg: 'EdDSA' as const,
          use: 'sig' as const,
        })),
      }
    },
  )

  api.post(
    '/v1/sessions',
    {
      preValidation: async (request) => {
        request.body ??= {}
      },
      schema: {
        operationId: 'createSession',
        summary: 'Trade a key for a token that lives for minutes',
        description: 'A key that signs requests is shown by signing this one (RFC 9421).',
        security: [{ key: [] }, { signature: [] }],
        body: Input({
          scopes: Type.Optional(
            Type.Array(ScopeSchema, {
              minItems: 1,
              maxItems: 100,
              uniqueItems: true,
              description: "all of the key's unless given",
            }),
          ),
          lifetime: Type.Optional(Duration('how long it lives: 10m unless given, 1h at most')),
        }),
        response: { 201: Session, ...Problems },
      },
    },
    async (request, reply) => {
      const lifetimeMs = lifetimeOf(request.body.lifetime)
      const token = bearer(request)
      if (token !== undefined && isSessionToken(token))
        throw new ApiError('invalid-key', 'A session makes no session: send the key itself.')
      const shown = await shownKey(request, deps, 'the key')
      const at = clock()
      const key = token === undefined || mayBeKey(token) ? await keyForSession(db, shown, at) : undefined
      if (key === undefined) throw new ApiError('invalid-key', 'Send a key that is accepted, as a whole.')
      const scopes = request.body.scopes ?? key.scopes
      const lacking = uncovered(key.scopes, scopes)
      if (lacking !== undefined)
        throw new ApiError('scope-exceeded', `A session can do no more than its key, which can not do ${lacking}.`)
      // Whole seconds, as the token has them.
      const until = Math.min(at.getTime() + lifetimeMs, key.expiresAt?.getTime() ?? Number.POSITIVE_INFINITY)
      const exp = Math.floor(until / 1_000)
      const signer = await signerAt(at)
      const claims: SessionClaims = {
        iss: SESSION_ISSUER,
        aud: sessionAudience(key.environment),
        sub: key.clientId,
        client_id: key.clientId,
        key_id: key.keyId,
        scope: scopes.join(' '),
        jti: randomBase62(22),
        iat: Math.floor(at.getTime() / 1_000),
        exp,
      }
      const signed = await new SignJWT(claims)
        .setProtectedHeader({ alg: 'EdDSA', typ: SESSION_TYPE, kid: signer.kid })
        .sign(signer.key)
      reply.code(201).header('cache-control', 'no-store')
      return { token: signed, keyId: key.keyId, scopes: [...scopes], expiresAt: new Date(exp * 1_000).toISOString() }
    },
  )
}

function lifetimeOf(text: string | undefined): number {
  if (text === undefined) return DEFAULT_SESSION_MS
  const ms = duration('/lifetime', text)
  if (ms >= 1_000 && ms <= MOST_SESSION_MS) return ms
  throw new ApiError('invalid-duration', 'lifetime: 1s to 1h', [{ path: '/lifetime', message: 'must be from 1s to 1h' }])
}

/** A slip of the hand is found by the checksum, without a look-up. Keys of another format than Keyturn's have none. */
function mayBeKey(token: string): boolean {
  const parsed = parseToken(token)
  return token.length <= LONGEST_KEY && (parsed.ok || parsed.flaw === 'shape' || parsed.flaw === 'brand')
}
