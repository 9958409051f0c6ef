/** What the holder of a key asks of it: whether it is accepted, whether a successor is there, and when it was last used. */
import { EnvironmentSchema, Timestamp } from '@keyturn/contract'
import Type from 'typebox'
import { ownKey } from '../registry/own-key.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, given, isoOf } from './routes.ts'
import { CredentialIdSchema, Problems, RotationIdSchema } from './schemas.ts'
import { shownKey } from './shown-key.ts'

const OwnKey = Type.Object({
  keyId: Type.String(),
  credentialId: CredentialIdSchema,
  environment: EnvironmentSchema,
  version: Type.Integer(),
  standing: Type.Enum(['current', 'successor', 'retired']),
  expiresAt: Type.Optional(Timestamp),
  sunsetAt: Type.Optional(Timestamp),
  successor: Type.Optional(Type.Integer({ description: 'the version of its successor, which can be claimed' })),
  lastUsedAt: Type.Optional(Timestamp),
  rotationId: Type.Optional(RotationIdSchema),
})

export function ownKeyRoutes(api: Api, deps: ApiDeps): void {
  const { db, clock } = deps
  api.get(
    '/v1/keys/self',
    {
      schema: {
        operationId: 'getOwnKey',
        summary: 'What a key that is accepted may know of itself',
        description:
          'lastUsedAt is of the latest request that a gateway has accepted and reported, some seconds ago. Asking here is no use of the key.',
        security: [{ key: [] }, { signature: [] }],
        response: { 200: OwnKey, ...Problems },
      },
    },
    async (request, reply) => {
      const key = await ownKey(db, await shownKey(request, deps, 'the key'), clock())
      if (key === undefined) throw new ApiError('invalid-key', 'Send a key that is accepted, as a whole.')
      const { keyId, credentialId, environment, version, standing } = key
      reply.header('cache-control', 'no-store')
      return {
        keyId,
        credentialId,
        environment,
        version,
        standing,
        ...given('expiresAt', isoOf(key.expiresAt ?? undefined)),
        ...given('sunsetAt', isoOf(key.sunsetAt ?? undefined)),
        ...given('successor', key.successor ?? undefined),
        ...given('lastUsedAt', isoOf(key.lastUsedAt ?? undefined)),
        ...given('rotationId', key.rotationId ?? undefined),
      }
    },
  )
}
