/** How a client says that it has switched over. */
import { setTimeout } from 'node:timers/promises'
import { ROTATION_STAGES, type Straggler } from '@keyturn/contract'
import Type from 'typebox'
import { type Done, knownThrough, noteDone } from '../registry/done.ts'
import { keyOf } from '../registry/shown-keys.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { knownRotation } from './rotations.ts'
import { type Api, given, isoOf } from './routes.ts'
import { Input, Problems, RotationIdSchema } from './schemas.ts'
import { shownKey } from './shown-key.ts'
import { whereFrom } from './where-from.ts'

/** Gateways say every few seconds up to when they have reported the use of keys. */
const EVIDENCE_WAIT_MS = 15_000
const PAUSE_MS = 200
const NAMED = 5

export function doneRoutes(api: Api, deps: ApiDeps): void {
  const { db, clock } = deps
  api.post(
    '/v1/rotations/:id/done',
    {
      preValidation: async (request) => {
        request.body ??= {}
      },
      schema: {
        operationId: 'doneRotation',
        summary: 'Say, with the new key, that the old one is not used any more',
        description:
          'Ends the quiet period early, unless the evidence contradicts it: a program of the client uses the old key, or what is used is not known. It takes some seconds until gateways have reported up to the moment of the word; the old key is then watched for as long as the switch-over has taken, 10 seconds at least.',
        security: [{ key: [] }, { signature: [] }],
        params: Input({ id: RotationIdSchema }),
        body: Input({}),
        response: {
          200: Type.Object({
            rotationId: RotationIdSchema,
            stage: Type.Enum([...ROTATION_STAGES]),
            doneAt: Type.Optional(
              Type.String({ format: 'date-time', description: 'absent once the old key is being, or has been, switched off' }),
            ),
          }),
          ...Problems,
        },
      },
    },
    async (request) => {
      const key = await keyOf(db, await shownKey(request, deps, 'the new key'))
      if (key?.state !== 'active') throw new ApiError('invalid-key', 'Send the new key of the rotation, as a whole.')
      const rotation = await knownRotation(deps, request.params.id)
      const { rotationId } = rotation
      // Whose rotation another one is, is nobody's business.
      if (rotation.credentialId !== key.credentialId)
        throw new ApiError('unknown-rotation', `This key has no rotation ${rotationId}.`)
      const at = clock()
      await evidenceUpTo(deps, at)
      const done = await noteDone(db, { rotationId, keyId: key.keyId, at, from: whereFrom(request) })
      if (done.outcome !== 'noted') throw refusalOf(done)
      return { rotationId, stage: done.stage, ...given('doneAt', isoOf(done.doneAt)) }
    },
  )
}

async function evidenceUpTo({ db }: ApiDeps, at: Date): Promise<void> {
  for (const giveUp = Date.now() + EVIDENCE_WAIT_MS; Date.now() < giveUp; await setTimeout(PAUSE_MS)) {
    const through = await knownThrough(db)
    if (through !== undefined && through >= at) return
  }
}

function refusalOf(done: Exclude<Done, { outcome: 'noted' }>): ApiError {
  switch (done.outcome) {
    case 'another-key':
      return new ApiError('new-key-required', 'Show the key that the rotation has issued: it is the proof that it is in use.')
    case 'wrong-stage':
      return new ApiError('wrong-stage', `There is no overlap of two keys: the rotation is ${done.stage}.`)
    case 'not-used':
      return new ApiError(
        'not-switched-over',
        'The new key has not been used at any gateway, or the API refuses it. Use it first.',
      )
    case 'unknown':
      return new ApiError(
        'not-switched-over',
        `Whether the old key is still used is not known${done.silentGateways.length === 0 ? ' yet' : `: ${done.silentGateways.join(', ')} silent`}. Say it again in a while.`,
      )
    case 'still-in-use':
      return new ApiError('not-switched-over', `The old key is still used: ${named(done.by)}.`)
  }
}

function named(by: readonly Straggler[]): string {
  const shown = by
    .slice(0, NAMED)
    .map(({ address, userAgent, lastAt }) => `by ${address} (${userAgent || 'no user agent'}) at ${lastAt}`)
  const more = by.length - shown.length
  return `${shown.join('; ')}${more > 0 ? `; and ${more} more` : ''}`
}
