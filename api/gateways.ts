import { Timestamp } from '@keyturn/contract'
import Type from 'typebox'
import { appendAudit } from '../registry/audit.ts'
import { withinTime } from './dependencies.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, OPERATOR_SECURITY } from './routes.ts'
import { GatewayIdSchema, Input, Problems, Reason } from './schemas.ts'

const KAFKA_WAIT_MS = 5_000

const GatewayList = Type.Object({
  gateways: Type.Array(
    Type.Object({
      gatewayId: Type.String(),
      region: Type.String(),
      at: Timestamp,
      freshness: Type.String(),
      keys: Type.Integer(),
      live: Type.Boolean({ description: 'heard of within the last seconds' }),
    }),
  ),
})

export function gatewayRoutes(api: Api, { db, propagation, clock }: ApiDeps): void {
  api.get(
    '/v1/gateways',
    {
      schema: {
        operationId: 'listGateways',
        summary: 'List the gateways that receipts wait for',
        security: OPERATOR_SECURITY,
        response: { 200: GatewayList, ...Problems },
      },
    },
    async () => ({ gateways: await withinTime('Kafka', KAFKA_WAIT_MS, propagation.gateways()) }),
  )

  api.post(
    '/v1/gateways/:id/gone',
    {
      schema: {
        operationId: 'declareGatewayGone',
        summary: 'Declare that a gateway will not come back: no receipt waits for it any longer',
        security: OPERATOR_SECURITY,
        params: Input({ id: GatewayIdSchema }),
        body: Input({ reason: Reason }),
        response: { 200: Type.Object({ gatewayId: Type.String(), gone: Type.Literal(true) }), ...Problems },
      },
    },
    async (request) => {
      const gatewayId = request.params.id
      const { actor } = operator(request)
      const { reason } = request.body
      const unknown = new ApiError('unknown-gateway', `There is no gateway ${gatewayId}.`)
      const listed = await withinTime('Kafka', KAFKA_WAIT_MS, propagation.gateways())
      if (!listed.some((gateway) => gateway.gatewayId === gatewayId)) throw unknown
      // The entry first: whether Kafka has taken a word that it did not acknowledge nobody knows, and there must be no word
      // without an entry. The operator hears of a failure, and declares it again.
      await db.tx((tx) => appendAudit(tx, { at: clock(), actor, action: 'gateway-gone', subject: gatewayId, detail: { reason } }))
      if (!(await withinTime('Kafka', KAFKA_WAIT_MS, propagation.declareGone(gatewayId)))) throw unknown
      return { gatewayId, gone: true as const }
    },
  )
}
