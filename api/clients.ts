import Type from 'typebox'
import { createClient, getClient, type Client as RegisteredClient } from '../registry/clients.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, OPERATOR_SECURITY } from './routes.ts'
import { ClientBody, ClientIdSchema, Contact, Input, Name, Problems } from './schemas.ts'

const toBody = (client: RegisteredClient) => ({
  clientId: client.clientId,
  name: client.name,
  contacts: client.contacts.map(({ channel, url }) => ({ channel, url })),
  createdAt: client.createdAt.toISOString(),
})

/** A pattern can not tell whether an address is one. User and password in it would be stored as plain text, and are not sent. */
function refuseUnusable(urls: readonly string[]): void {
  const errors = urls.flatMap((url, i) => {
    const path = `/contacts/${i}/url`
    if (!URL.canParse(url)) return [{ path, message: 'is not a URL' }]
    const { username, password } = new URL(url)
    return username + password === '' ? [] : [{ path, message: 'must not hold a user or a password' }]
  })
  if (errors.length > 0) throw new ApiError('invalid-request', 'Give an address that can be called.', errors)
}

export function clientRoutes(api: Api, { db, clock }: ApiDeps): void {
  api.post(
    '/v1/clients',
    {
      schema: {
        operationId: 'createClient',
        summary: 'Create a client',
        security: OPERATOR_SECURITY,
        body: Input({ name: Name, contacts: Type.Optional(Type.Array(Contact, { maxItems: 10 })) }),
        response: { 201: ClientBody, ...Problems },
      },
    },
    async (request, reply) => {
      const { name, contacts = [] } = request.body
      refuseUnusable(contacts.map(({ url }) => url))
      const client = await createClient(db, { name, contacts, at: clock(), actor: operator(request).actor })
      return reply.code(201).header('location', `/v1/clients/${client.clientId}`).send(toBody(client))
    },
  )

  api.get(
    '/v1/clients/:id',
    {
      schema: {
        operationId: 'getClient',
        summary: 'Read a client',
        security: OPERATOR_SECURITY,
        params: Input({ id: ClientIdSchema }),
        response: { 200: ClientBody, ...Problems },
      },
    },
    async (request) => {
      const client = await getClient(db, request.params.id)
      if (client === undefined) throw new ApiError('unknown-client', `There is no client ${request.params.id}.`)
      return toBody(client)
    },
  )
}
