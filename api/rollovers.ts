/** Fleet rollovers: what one would do, starting it, and looking after it. */
import { parseSelector, ROLLOVER_UPDATES, type RolloverId, type RolloverUpdate, randomBase62, Selector } from '@keyturn/contract'
import Type from 'typebox'
import {
  getRollover,
  listRollovers,
  type RolloverSummary as RegisteredSummary,
  recordMarks,
} from '../registry/rollover-records.ts'
import { openRollover, previewRollover } from '../registry/rollovers.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { orderRollover, startRollover } from './rollover-workflows.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, Reason, RolloverBody, RolloverIdSchema, RolloverPreviewBody, RolloverSummary } from './schemas.ts'

const PAGE = 50
const SUMMARIES: Readonly<Record<RolloverUpdate, string>> = {
  pause: 'Begin no further wave until it is resumed',
  resume: 'Let a paused rollover go on',
  cancel: 'Issue no more new keys; what is dead stays dead',
}

export function rolloverRoutes(api: Api, deps: ApiDeps): void {
  const { db, temporal, config, clock } = deps
  const underWay = new Set<Promise<unknown>>()
  api.addHook('onClose', async () => void (await Promise.allSettled(underWay)))

  api.get(
    '/v1/rollovers/preview',
    {
      schema: {
        operationId: 'previewRollover',
        summary: 'Say what a fleet rollover would do, and do nothing',
        security: OPERATOR_SECURITY,
        querystring: Input({
          selector: Type.String({ maxLength: 10_000, description: 'environment=prod scope=trade:* label.team=rates' }),
          all: Type.Optional(Type.Enum(['true', 'false'])),
        }),
        response: { 200: RolloverPreviewBody, ...Problems },
      },
    },
    async ({ query }) => previewRollover(db, { selector: selectorOf(query.selector), all: query.all === 'true' }),
  )

  api.post(
    '/v1/rollovers',
    {
      schema: {
        operationId: 'rollOver',
        summary: 'Kill the keys of many credentials at once, and bring new ones',
        description:
          'The keys are dead in the registry when this is answered, and the gateways are being told. A credential for which another rollover issues new keys is joined: nothing of it dies again.',
        security: OPERATOR_SECURITY,
        body: Input({
          selector: Selector,
          reason: Reason,
          expected: Type.Optional(
            Type.Integer({ minimum: 0, description: 'how many credentials this is about; with another number nothing happens' }),
          ),
          all: Type.Optional(Type.Boolean({ description: 'allows a selector that selects everything' })),
        }),
        response: {
          202: Type.Object({ rolloverId: RolloverIdSchema, selected: Type.Integer(), killed: Type.Integer() }),
          ...Problems,
        },
      },
    },
    async (request, reply) => {
      const { actor } = operator(request)
      const rolloverId = `rol_${randomBase62(16)}` as RolloverId
      const { selected, killed, keyIds } = await openRollover(db, { ...request.body, rolloverId, actor, at: clock() })
      // From here it is the registry's word that counts: what fails now, a worker does.
      const work = Promise.all([tell(keyIds, rolloverId), startRollover(temporal, config.taskQueue, rolloverId)]).catch(
        (error: unknown) => request.log.warn({ err: error, rolloverId }, 'a worker will pick the rollover up'),
      )
      underWay.add(work)
      work.finally(() => underWay.delete(work)).catch(() => {})
      return reply.code(202).header('location', `/v1/rollovers/${rolloverId}`).send({ rolloverId, selected, killed })
    },
  )

  async function tell(keyIds: Parameters<typeof deps.propagation.publishMany>[0], rolloverId: RolloverId): Promise<void> {
    const { marks } = await deps.propagation.publishMany(keyIds)
    await recordMarks(db, { rolloverId, marks })
  }

  api.get(
    '/v1/rollovers',
    {
      schema: {
        operationId: 'listRollovers',
        summary: 'List fleet rollovers, latest first',
        security: OPERATOR_SECURITY,
        querystring: Input({ limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200 })) }),
        response: { 200: Type.Object({ rollovers: Type.Array(RolloverSummary) }), ...Problems },
      },
    },
    async ({ query }) => ({ rollovers: (await listRollovers(db, query.limit ?? PAGE)).map(summaryOf) }),
  )

  api.get(
    '/v1/rollovers/:id',
    {
      schema: {
        operationId: 'getRollover',
        summary: 'Read a fleet rollover: how far it has come, which gateways have confirmed',
        security: OPERATOR_SECURITY,
        params: Input({ id: RolloverIdSchema }),
        response: { 200: RolloverBody, ...Problems },
      },
    },
    async ({ params }) => rolloverBody(deps, params.id),
  )

  for (const update of ROLLOVER_UPDATES) {
    api.post(
      `/v1/rollovers/:id/${update}`,
      {
        schema: {
          operationId: `${update}Rollover`,
          summary: SUMMARIES[update],
          security: OPERATOR_SECURITY,
          params: Input({ id: RolloverIdSchema }),
          body: Input({ reason: Reason }),
          response: { 200: RolloverBody, ...Problems },
        },
      },
      async (request) => {
        const { stage, endedAt } = await rolloverBody(deps, request.params.id)
        if (endedAt !== undefined) throw new ApiError('wrong-stage', `The rollover has ended: it is ${stage}.`)
        const { actor } = operator(request)
        await orderRollover(temporal, request.params.id, update, { reason: request.body.reason, actor })
        return rolloverBody(deps, request.params.id)
      },
    )
  }
}

function selectorOf(text: string): Selector {
  try {
    return parseSelector(text)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new ApiError('invalid-request', error.message, [{ path: '/selector', message: error.message }])
  }
}

async function rolloverBody({ db }: ApiDeps, rolloverId: RolloverId) {
  const rollover = await getRollover(db, rolloverId)
  if (rollover === undefined) throw new ApiError('unknown-rollover', `There is no rollover ${rolloverId}.`)
  const { counts, receipts, remainder } = rollover
  return {
    ...summaryOf(rollover),
    actor: rollover.actor,
    counts,
    receipts: receipts.map((receipt) => ({
      ...receipt,
      gateways: receipt.gateways.map((gateway) => ({ ...gateway })),
      unconfirmed: [...receipt.unconfirmed],
    })),
    remainder: remainder.map((one) => ({ ...one })),
  }
}

const summaryOf = (rollover: RegisteredSummary) => ({
  rolloverId: rollover.rolloverId,
  selector: rollover.selector,
  ...given('credentialId', rollover.credentialId),
  reason: rollover.reason,
  stage: rollover.stage,
  unconfirmed: [...rollover.unconfirmed],
  openedAt: rollover.openedAt.toISOString(),
  ...given('endedAt', isoOf(rollover.endedAt)),
})
