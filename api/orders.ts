/** What a person may tell a running rotation. */
import { isTerminal, type RotationId, type RotationUpdate } from '@keyturn/contract'
import Type from 'typebox'
import { readEvidence } from '../registry/usage.ts'
import { operator } from './operator.ts'
import { duration } from './policy.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { knownRotation } from './rotations.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { Duration, Input, Problems, ProgressBody, Reason, RotationIdSchema } from './schemas.ts'
import { orderRotation } from './temporal.ts'

const ORDERS: readonly { readonly path: string; readonly update: RotationUpdate; readonly summary: string }[] = [
  {
    path: 'approve',
    update: 'approve',
    summary: 'Let a rotation go on that is held at its deadline, or because its policy asks for approval',
  },
  { path: 'hold', update: 'hold', summary: 'Hold a rotation where it is' },
  { path: 'resume', update: 'resume', summary: 'Let a held rotation go on' },
  { path: 'extend', update: 'extend', summary: 'Move the end of the overlap window' },
  { path: 'deactivate-now', update: 'deactivateNow', summary: 'Deactivate the old key whatever the evidence says' },
  { path: 'roll-back', update: 'rollBack', summary: 'Make the old key the current one again' },
  { path: 'escalate', update: 'escalate', summary: 'Make the rotation an emergency: the old key dies first' },
]

export function orderRoutes(api: Api, deps: ApiDeps): void {
  const plain = Input({ reason: Reason })
  const withTime = Input({ reason: Reason, by: Type.Optional(Duration("by how much; the policy's time unless given")) })
  for (const { path, update, summary } of ORDERS) {
    api.post(
      `/v1/rotations/:id/${path}`,
      {
        schema: {
          operationId: `${update}Rotation`,
          summary,
          security: OPERATOR_SECURITY,
          params: Input({ id: RotationIdSchema }),
          body: update === 'extend' ? withTime : plain,
          response: { 200: ProgressBody, ...Problems },
        },
      },
      async (request) => {
        const body: { reason: string; by?: string } = request.body
        const byMs = body.by === undefined ? undefined : duration('/by', body.by)
        const { rotationId, credentialId, stage } = await knownRotation(deps, request.params.id)
        if (isTerminal(stage)) throw new ApiError('wrong-stage', `The rotation has ended: it is ${stage}.`)
        if (update === 'approve' || update === 'deactivateNow') await refuseBeforeEnrolment(deps, rotationId)
        const { actor } = operator(request)
        const order = { rotationId, reason: body.reason, actor, ...given('byMs', byMs) }
        const progress = await orderRotation(deps.temporal, credentialId, update, order)
        return { ...progress, timeline: [...progress.timeline], unconfirmed: [...progress.unconfirmed] }
      },
    )
  }
}

/** Without its old key the client would have none (G1). */
async function refuseBeforeEnrolment({ db }: ApiDeps, rotationId: RotationId): Promise<void> {
  if ((await readEvidence(db, rotationId)).awaitsEnrolment !== true) return
  throw new ApiError('wrong-stage', 'The client has not enrolled its new key: without the old one it would have no key.')
}
