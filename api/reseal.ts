/** A change of the key-encryption key, ended: everything moves to the new one. */
import type { KeyId } from '@keyturn/contract'
import Type from 'typebox'
import { unpublishedKeyIds } from '../registry/publishing.ts'
import { gatewaysOpen, reseal } from '../registry/reseal.ts'
import { withinTime } from './dependencies.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, Reason } from './schemas.ts'

/** After this long an answer says how much is left. */
const WITHIN_MS = 10_000

/** How long an answer waits for Kafka, and for the gateways. */
const PUBLISHED_MS = 10_000
const HEARD_MS = 5_000
/** More keys than that are not left unpublished, however often this was stopped. */
const MOST_UNPUBLISHED = 10_000

export function resealRoutes(api: Api, deps: ApiDeps): void {
  const { db, sealer, clock } = deps
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
            unconfirmed: Type.Array(Type.String(), {
              description: 'the gateways that still need the old key: they have not heard yet what was sealed anew',
            }),
          }),
          ...Problems,
        },
      },
    },
    async (request) => {
      const { actor } = operator(request)
      const by = { ...given('reason', request.body.reason), at: clock(), actor }
      const { kekId, resealed, left, changed } = await reseal(db, { sealer, ...by, within: WITHIN_MS })
      const unconfirmed = (await gatewaysOpen(db)) ? await heard(deps, changed) : []
      return { kekId, resealed, left: left.map((each) => ({ ...each, held: sealer.kekIds.includes(each.kekId) })), unconfirmed }
    },
  )
}

/** Tells the gateways of what was sealed anew, also by an earlier call. @returns those that have not said to have it */
async function heard({ db, propagation }: ApiDeps, changed: readonly KeyId[]): Promise<string[]> {
  const keyIds = [...new Set([...changed, ...(await unpublishedKeyIds(db, MOST_UNPUBLISHED))])]
  const publication = await withinTime('Kafka', PUBLISHED_MS, propagation.publishMany(keyIds))
  const { unconfirmed } = await withinTime('Kafka', 2 * HEARD_MS, propagation.waitForAll(publication, { timeoutMs: HEARD_MS }))
  return [...unconfirmed]
}
