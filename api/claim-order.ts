/** The claim of a rotation, for the provider to give to its client where no message leads there. */
import { KEY_KINDS } from '@keyturn/contract'
import Type from 'typebox'
import { showClaim } from '../registry/claims.ts'
import { operator } from './operator.ts'
import { type ApiDeps, claimLinks } from './ports.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, Reason, RotationIdSchema } from './schemas.ts'

const ShownClaim = Type.Object({
  rotationId: RotationIdSchema,
  keyId: Type.String(),
  kind: Type.Enum([...KEY_KINDS]),
  claim: Type.String({ description: 'hands the secret out once, or enrols the public half: whoever has it is the client' }),
  claimUrl: Type.String(),
  claimPage: Type.String({ description: 'the same for a person with a browser' }),
  claimExpiresAt: Type.Optional(Type.String({ description: 'absent while the rotation runs: the claim waits for it' })),
})

export function claimOrderRoutes(api: Api, { db, sealer, clock, config }: ApiDeps): void {
  api.post(
    '/v1/rotations/:id/claim',
    {
      schema: {
        operationId: 'showClaim',
        summary: "Show the claim of a rotation's new key, to give it to the client",
        description:
          'For a client that no message leads to its new key: give it to whoever you know to be the client, or have your own pages fetch with it what a client that has signed in asks for. It stays open, and is the same however often it is asked for. The audit log says who has asked (claim.shown).',
        security: OPERATOR_SECURITY,
        params: Input({ id: RotationIdSchema }),
        body: Input({ reason: Reason }),
        response: { 200: ShownClaim, ...Problems },
      },
    },
    async (request, reply) => {
      const rotationId = request.params.id
      const by = { at: clock(), actor: operator(request).actor, reason: request.body.reason }
      const { code, keyId, kind, expiresAt } = await showClaim(db, { rotationId, sealer, ...by })
      reply.header('cache-control', 'no-store')
      return {
        rotationId,
        keyId,
        kind,
        ...claimLinks(config, code),
        ...given('claimExpiresAt', isoOf(expiresAt)),
      }
    },
  )
}
