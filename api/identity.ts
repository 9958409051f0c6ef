/** By what clients' own stores know Keyturn: they fetch these when Keyturn logs in to write a key (OpenID Connect Discovery 1.0). */
import { IDENTITY_ALG, IDENTITY_KEYS_PATH, OPENID_CONFIGURATION_PATH } from '@keyturn/contract'
import Type from 'typebox'
import { identityKeys } from '../registry/identity-keys.ts'
import { type ApiDeps, publicUrlOf } from './ports.ts'
import type { Api } from './routes.ts'
import { Problems } from './schemas.ts'

/** As long as two key-encryption keys are held beside each other at least, while one replaces the other. */
const MAX_AGE_S = 300

const USE = { alg: IDENTITY_ALG, use: 'sig' } as const

const KeySet = Type.Object({
  keys: Type.Array(
    Type.Object({
      kty: Type.Literal('EC'),
      crv: Type.Literal('P-256'),
      x: Type.String(),
      y: Type.String(),
      kid: Type.String(),
      alg: Type.Literal(IDENTITY_ALG),
      use: Type.Literal('sig'),
    }),
  ),
})

const Configuration = Type.Object({
  issuer: Type.String(),
  jwks_uri: Type.String(),
  response_types_supported: Type.Array(Type.String()),
  subject_types_supported: Type.Array(Type.String()),
  id_token_signing_alg_values_supported: Type.Array(Type.String()),
  claims_supported: Type.Array(Type.String()),
})

export function identityRoutes(api: Api, { sealer, config }: ApiDeps): void {
  const keys = identityKeys(sealer)
  keys.catch(() => {})
  api.get(
    IDENTITY_KEYS_PATH,
    {
      schema: {
        operationId: 'identityKeySet',
        summary: "The public keys with which clients' stores verify that it is Keyturn who writes",
        security: [],
        response: { 200: KeySet, ...Problems },
      },
    },
    async (_request, reply) => {
      reply.header('cache-control', `public, max-age=${MAX_AGE_S}`)
      const known = await keys
      return { keys: known.map(({ publicKey }) => ({ ...publicKey, ...USE })) }
    },
  )

  api.get(
    OPENID_CONFIGURATION_PATH,
    {
      schema: {
        operationId: 'openidConfiguration',
        summary: 'Where those keys are, for AWS and others that ask for it',
        description: 'Nobody signs in here: it describes the tokens that Keyturn shows, and no more.',
        security: [],
        response: { 200: Configuration, ...Problems },
      },
    },
    async (_request, reply) => {
      const issuer = publicUrlOf(config)
      reply.header('cache-control', `public, max-age=${MAX_AGE_S}`)
      return {
        issuer,
        jwks_uri: issuer + IDENTITY_KEYS_PATH,
        response_types_supported: ['id_token'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: [IDENTITY_ALG],
        claims_supported: ['iss', 'sub', 'aud', 'exp', 'iat', 'nbf', 'jti', 'client_id', 'credential_id'],
      }
    },
  )
}
