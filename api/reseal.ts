/** A change of the key-encryption key, ended: everything moves to the new one. */
import Type from 'typebox'
import { reseal } from '../registry/reseal.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, Reason } from './schemas.ts'

/** After this long an answer says how much is left. */
const WITHIN_MS = 10_000

export function resealRoutes(api: Api, { db, sealer, clock }: ApiDeps): void {
  api.post(
    '/v1/reseal',
    {
      schema: {
        operationId: 'reseal',
        summary: 'Move what is sealed under the old key-encryption key to the new one',
        description: 'Ask again while something is left under a key that this process holds.',
        security: OPERATOR_SECURITY,
        body: Input({ reason: Type.Optional(Reason) }),
        response: {
          200: Type.Object({
            kekId: Type.String({ description: 'names the key-encryption key that seals now' }),
            resealed: Type.Integer(),
            left: Type.Array(Type.Object({ kekId: Type.String(), count: Type.Integer(), held: Type.Boolean() }), {
              description: 'what is sealed under other keys; only when there is nothing may the old one be taken away',
            }),
          }),
          ...Problems,
        },
      },
    },
    async (request) => {
      const { actor } = operator(request)
      const by = { ...given('reason', request.body.reason), at: clock(), actor }
      const { kekId, resealed, left } = await reseal(db, { sealer, ...by, within: WITHIN_MS })
      return { kekId, resealed, left: left.map((each) => ({ ...each, held: sealer.kekIds.includes(each.kekId) })) }
    },
  )
}
