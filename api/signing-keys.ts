/** What operators see and order of the keys that session tokens are signed with. */
import { Timestamp } from '@keyturn/contract'
import Type from 'typebox'
import { publishedKeys, rotateSigningKey } from '../registry/signing-keys.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, Reason } from './schemas.ts'

const SigningKeyList = Type.Object({
  signingKeys: Type.Array(
    Type.Object({
      kid: Type.String(),
      createdAt: Timestamp,
      signsFrom: Timestamp,
      signsUntil: Type.Optional(Timestamp),
      publishedUntil: Type.Optional(Timestamp),
    }),
  ),
})

export function signingKeyRoutes(api: Api, { db, sealer, clock, config: { sessionKeyPeriodMs: periodMs } }: ApiDeps): void {
  api.get(
    '/v1/signing-keys',
    {
      schema: {
        operationId: 'listSigningKeys',
        summary: 'The keys that session tokens are signed with',
        security: OPERATOR_SECURITY,
        response: { 200: SigningKeyList, ...Problems },
      },
    },
    async () => {
      const keys = await publishedKeys(db, { sealer, periodMs, at: clock() })
      return {
        signingKeys: keys.map(({ kid, createdAt, signsFrom, signsUntil, publishedUntil }) => ({
          kid,
          createdAt: createdAt.toISOString(),
          signsFrom: signsFrom.toISOString(),
          ...given('signsUntil', isoOf(signsUntil)),
          ...given('publishedUntil', isoOf(publishedUntil)),
        })),
      }
    },
  )

  api.post(
    '/v1/signing-keys/rotate',
    {
      schema: {
        operationId: 'rotateSigningKey',
        summary: 'Have another key sign session tokens, from ten minutes on',
        security: OPERATOR_SECURITY,
        body: Input({
          reason: Reason,
          compromised: Type.Optional(
            Type.Boolean({ description: 'somebody else has the key: it is gone at once, and every session with it' }),
          ),
        }),
        response: { 200: Type.Object({ kid: Type.String(), signsFrom: Timestamp }), ...Problems },
      },
    },
    async (request) => {
      const { reason, compromised = false } = request.body
      const { actor } = operator(request)
      const { kid, signsFrom } = await rotateSigningKey(db, { sealer, periodMs, at: clock(), actor, reason, compromised })
      return { kid, signsFrom: signsFrom.toISOString() }
    },
  )
}
