/** Finding credentials by their clients. */
import { EnvironmentSchema } from '@keyturn/contract'
import Type from 'typebox'
import { listCredentials } from '../registry/credential-list.ts'
import type { ApiDeps } from './ports.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { ClientIdSchema, CredentialIdSchema, Input, Kind, Problems } from './schemas.ts'

const PAGE = 100

const Credentials = Type.Object({
  credentials: Type.Array(
    Type.Object({
      credentialId: CredentialIdSchema,
      name: Type.String(),
      environment: EnvironmentSchema,
      clientId: ClientIdSchema,
      clientName: Type.String(),
      scopes: Type.Array(Type.String()),
      kind: Kind,
      policy: Type.Optional(Type.String()),
    }),
  ),
  next: Type.Optional(Type.String({ description: 'send it as `after` for the next page' })),
})

export function credentialListRoutes(api: Api, { db }: ApiDeps): void {
  api.get(
    '/v1/credentials',
    {
      schema: {
        operationId: 'listCredentials',
        summary: 'List credentials, by the id or the name of their client',
        security: OPERATOR_SECURITY,
        querystring: Input({
          client: Type.Optional(ClientIdSchema),
          clientName: Type.Optional(Type.String({ minLength: 1, maxLength: 200, description: 'of every client of this name' })),
          after: Type.Optional(CredentialIdSchema),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
        }),
        response: { 200: Credentials, ...Problems },
      },
    },
    async (request) => {
      const { client, clientName, after, limit = PAGE } = request.query
      const filter = { ...given('clientId', client), ...given('clientName', clientName), ...given('after', after) }
      const credentials = await listCredentials(db, { ...filter, limit })
      return {
        credentials: credentials.map(({ policy, scopes, ...credential }) => ({
          ...credential,
          scopes: [...scopes],
          ...given('policy', policy ?? undefined),
        })),
        ...given('next', credentials.length < limit ? undefined : credentials.at(-1)?.credentialId),
      }
    },
  )
}
