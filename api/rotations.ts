/** Triggering a rotation, and reading rotations. */
import { ON_DEADLINE, ROTATION_STAGES, type RotationId, randomBase62, TRIGGERS } from '@keyturn/contract'
import Type from 'typebox'
import { getCredential } from '../registry/credentials.ts'
import { rotationPolicyOf } from '../registry/policies.ts'
import { getRotation, listRotations, type RotationSummary as RegisteredSummary, type Rotation } from '../registry/rotations.ts'
import { switchoverOf } from '../registry/switchover.ts'
import { readEvidence } from '../registry/usage.ts'
import { operator } from './operator.ts'
import { policyBody, policyOf } from './policy.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import {
  ClientIdSchema,
  CredentialIdSchema,
  Duration,
  Input,
  Problems,
  Reason,
  RotationBody,
  RotationIdSchema,
  RotationSummary,
} from './schemas.ts'
import { triggerRotation } from './temporal.ts'

/** How long an answer waits for the rotation to be on record, so that whoever has its id can read it. */
const ON_RECORD_WAIT_MS = 10_000
const PAGE = 50

export function rotationRoutes(api: Api, deps: ApiDeps): void {
  const { db, temporal, config } = deps
  api.post(
    '/v1/credentials/:id/rotations',
    {
      schema: {
        operationId: 'rotate',
        summary: 'Rotate a credential',
        description:
          'It runs as the policy of the credential has it, unless the request says otherwise. While a rotation runs, a request of the same kind joins it, and an emergency takes it over.',
        security: OPERATOR_SECURITY,
        params: Input({ id: CredentialIdSchema }),
        body: Input({
          trigger: Type.Enum(['manual', 'emergency']),
          reason: Reason,
          overlap: Type.Optional(Duration('how long old and new key are both accepted')),
          quietPeriod: Type.Optional(Duration('how long the old key must have been unused before it is deactivated')),
          onDeadline: Type.Optional(Type.Enum([...ON_DEADLINE])),
          regretWindow: Type.Optional(Duration('how long refusals of the old key are watched afterwards')),
          receiptWait: Type.Optional(Duration('how long a gateway may be missing before the rotation is held; 12h at most')),
          grace: Type.Optional(
            Duration('emergency: how long the client has to switch over before the old key dies; without it the key dies first'),
          ),
        }),
        response: {
          202: Type.Object({
            rotationId: RotationIdSchema,
            trigger: Type.Enum([...TRIGGERS]),
            joined: Type.Boolean({ description: 'a rotation was running; this request is part of it now' }),
          }),
          ...Problems,
        },
      },
    },
    async (request, reply) => {
      const { trigger, reason, ...overrides } = request.body
      if (overrides.grace !== undefined && trigger !== 'emergency') {
        const message = 'is for emergencies: a manual rotation has an overlap'
        throw new ApiError('invalid-request', `grace ${message}`, [{ path: '/grace', message }])
      }
      const credential = await getCredential(db, request.params.id)
      const policy = policyOf(overrides, await rotationPolicyOf(db, request.params.id))
      if (credential === undefined) throw new ApiError('unknown-credential', `There is no credential ${request.params.id}.`)
      const rotationId = `rot_${randomBase62(16)}` as RotationId
      const { actor } = operator(request)
      const answer = await triggerRotation(temporal, config.taskQueue, credential, { rotationId, trigger, reason, actor, policy })
      await onRecord(deps, answer.rotationId)
      return reply.code(202).header('location', `/v1/rotations/${answer.rotationId}`).send(answer)
    },
  )

  api.get(
    '/v1/rotations',
    {
      schema: {
        operationId: 'listRotations',
        summary: 'List rotations, latest first',
        security: OPERATOR_SECURITY,
        querystring: Input({
          stage: Type.Optional(Type.Enum([...ROTATION_STAGES])),
          client: Type.Optional(ClientIdSchema),
          credential: Type.Optional(CredentialIdSchema),
          before: Type.Optional(RotationIdSchema),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200 })),
        }),
        response: {
          200: Type.Object({
            rotations: Type.Array(RotationSummary),
            next: Type.Optional(Type.String({ description: 'send it as `before` for the next page' })),
          }),
          ...Problems,
        },
      },
    },
    async (request) => {
      const { stage, client, credential, before, limit = PAGE } = request.query
      if (before !== undefined) await knownRotation(deps, before)
      const filter = { ...given('stage', stage), ...given('clientId', client), ...given('credentialId', credential) }
      const rotations = await listRotations(db, {
        ...filter,
        ...given('before', before),
        limit,
      })
      return {
        rotations: rotations.map(summaryOf),
        ...given('next', rotations.length < limit ? undefined : rotations.at(-1)?.rotationId),
      }
    },
  )

  api.get(
    '/v1/rotations/:id',
    {
      schema: {
        operationId: 'getRotation',
        summary: 'Read a rotation: stage, timeline, evidence, how far the client has switched over, receipts',
        security: OPERATOR_SECURITY,
        params: Input({ id: RotationIdSchema }),
        response: { 200: RotationBody, ...Problems },
      },
    },
    async (request) => {
      const rotation = await knownRotation(deps, request.params.id)
      const [evidence, switchover] = await Promise.all([
        readEvidence(db, rotation.rotationId),
        switchoverOf(db, rotation.rotationId),
      ])
      return {
        ...summaryOf(rotation),
        environment: rotation.environment,
        unconfirmed: [...rotation.unconfirmed],
        policy: policyBody(rotation.policy),
        timeline: rotation.timeline.map(({ stage, at, reason }) => ({ stage, at, ...given('reason', reason) })),
        evidence: {
          ...evidence,
          silentGateways: [...evidence.silentGateways],
          stragglers: evidence.stragglers.map((straggler) => ({ ...straggler })),
        },
        ...given(
          'switchover',
          switchover === undefined
            ? undefined
            : { ...switchover, programs: switchover.programs.map((program) => ({ ...program })) },
        ),
        receipts: rotation.receipts.map((receipt) => ({
          ...receipt,
          gateways: receipt.gateways.map((gateway) => ({ ...gateway })),
          unconfirmed: [...receipt.unconfirmed],
        })),
      }
    },
  )
}

export async function knownRotation({ db }: ApiDeps, rotationId: RotationId): Promise<Rotation> {
  const rotation = await getRotation(db, rotationId)
  if (rotation === undefined) throw new ApiError('unknown-rotation', `There is no rotation ${rotationId}.`)
  return rotation
}

const summaryOf = (rotation: RegisteredSummary) => ({
  rotationId: rotation.rotationId,
  credentialId: rotation.credentialId,
  clientId: rotation.clientId,
  trigger: rotation.trigger,
  reason: rotation.reason,
  stage: rotation.stage,
  ...given('heldFor', rotation.heldFor),
  ...given('deadline', isoOf(rotation.deadline)),
  ...given('oldKeyId', rotation.oldKeyId),
  ...given('newKeyId', rotation.newKeyId),
  openedAt: rotation.openedAt.toISOString(),
  ...given('endedAt', isoOf(rotation.endedAt)),
})

/**
 * The workflow answers before its first activity has run; the rotation is in the registry a moment later. That it can not be
 * read just now takes nothing back: it has been accepted.
 */
async function onRecord({ db }: ApiDeps, rotationId: RotationId): Promise<void> {
  const deadline = Date.now() + ON_RECORD_WAIT_MS
  while (Date.now() < deadline && (await getRotation(db, rotationId).catch(() => undefined)) === undefined) {
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}
