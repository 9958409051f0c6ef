/** Credentials that nobody uses: proposed for retirement. */
import { EnvironmentSchema, Timestamp } from '@keyturn/contract'
import Type from 'typebox'
import { listRetirementProposals } from '../registry/neglect.ts'
import type { ApiDeps } from './ports.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import { ClientIdSchema, CredentialIdSchema, Input, Problems } from './schemas.ts'

const PAGE = 100

const Unused = Type.Object({
  credentials: Type.Array(
    Type.Object({
      credentialId: CredentialIdSchema,
      clientId: ClientIdSchema,
      name: Type.String(),
      environment: EnvironmentSchema,
      policy: Type.Optional(Type.String()),
      lastUsedAt: Type.Optional(Timestamp),
      proposedAt: Timestamp,
    }),
  ),
  next: Type.Optional(Type.String({ description: 'send it as `after` for the next page' })),
})

export function unusedRoutes(api: Api, { db }: ApiDeps): void {
  api.get(
    '/v1/unused-credentials',
    {
      schema: {
        operationId: 'listUnusedCredentials',
        summary: 'List credentials that have not been used for 90 days: proposed for retirement',
        security: OPERATOR_SECURITY,
        querystring: Input({
          after: Type.Optional(CredentialIdSchema),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
        }),
        response: { 200: Unused, ...Problems },
      },
    },
    async (request) => {
      const { after, limit = PAGE } = request.query
      const credentials = await listRetirementProposals(db, { ...given('after', after), limit })
      return {
        credentials: credentials.map(({ policy, lastUsedAt, proposedAt, ...credential }) => ({
          ...credential,
          ...given('policy', policy ?? undefined),
          ...given('lastUsedAt', isoOf(lastUsedAt ?? undefined)),
          proposedAt: proposedAt.toISOString(),
        })),
        ...given('next', credentials.length < limit ? undefined : credentials.at(-1)?.credentialId),
      }
    },
  )
}
