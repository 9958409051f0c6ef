import Type from 'typebox'
import { changeClient, createClient, getClient, type Client as RegisteredClient } from '../registry/clients.ts'
import { type Trouble, troublesOf } from '../registry/contact-troubles.ts'
import { contactIdOf, flawsOfContacts, type Contact as RegisteredContact } from '../registry/contacts.ts'
import type { Database } from '../registry/database.ts'
import { operator } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError, type FieldError } from './problems.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import { ClientBody, ClientIdSchema, Contact, Input, Language, Name, Problems, QuietHours, Tell, TimeZone } from './schemas.ts'

const HOW_TOLD = {
  language: Type.Optional(Language),
  timeZone: Type.Optional(TimeZone),
  tell: Type.Optional(Tell),
}
const Contacts = Type.Array(Contact, { maxItems: 10, description: 'in the order in which they are tried' })

const toBody = (client: RegisteredClient, troubles: ReadonlyMap<string, Trouble>) => ({
  clientId: client.clientId,
  name: client.name,
  contacts: client.contacts.map((contact) => {
    const contactId = contactIdOf(client.clientId, contact)
    const trouble = troubles.get(contactId)
    const { failures, since, why, disabledAt } = trouble ?? {}
    return {
      contactId,
      ...contact,
      ...given('failing', trouble && { messages: failures ?? 0, since: isoOf(since) ?? '', why: why ?? '' }),
      ...given('disabledAt', isoOf(disabledAt)),
    }
  }),
  language: client.language,
  timeZone: client.timeZone,
  ...given('quietHours', client.quietHours),
  tell: client.tell,
  createdAt: client.createdAt.toISOString(),
})

const bodyOf = async (db: Database, client: RegisteredClient) => toBody(client, await troublesOf(db, client.clientId))

interface Told {
  readonly contacts?: readonly RegisteredContact[]
  readonly timeZone?: string
  readonly quietHours?: { readonly from: string; readonly to: string } | null
}

export function clientRoutes(api: Api, { db, clock, config }: ApiDeps): void {
  /** What a schema can not tell. */
  const refuseUnusable = ({ contacts = [], timeZone, quietHours }: Told): void => {
    const errors: FieldError[] = [...flawsOfContacts(contacts, config.webhookAllow)]
    if (timeZone !== undefined && !isTimeZone(timeZone))
      errors.push({ path: '/timeZone', message: 'is not a time zone like Europe/Berlin' })
    if (quietHours && quietHours.from === quietHours.to)
      errors.push({ path: '/quietHours/to', message: 'is when they begin: leave them out, or give a span' })
    if (errors.length > 0) throw new ApiError('invalid-request', 'Give addresses that can be reached.', errors)
  }

  api.post(
    '/v1/clients',
    {
      schema: {
        operationId: 'createClient',
        summary: 'Create a client',
        security: OPERATOR_SECURITY,
        body: Input({ name: Name, contacts: Type.Optional(Contacts), ...HOW_TOLD, quietHours: Type.Optional(QuietHours) }),
        response: { 201: ClientBody, ...Problems },
      },
    },
    async (request, reply) => {
      const { contacts = [], ...rest } = request.body
      refuseUnusable(request.body)
      const client = await createClient(db, { ...rest, contacts, at: clock(), actor: operator(request).actor })
      return reply
        .code(201)
        .header('location', `/v1/clients/${client.clientId}`)
        .send(await bodyOf(db, client))
    },
  )

  api.patch(
    '/v1/clients/:id',
    {
      schema: {
        operationId: 'changeClient',
        summary: 'Change how a client is told',
        description:
          'What is not given stays as it is. Contacts that are given replace all, and all of them are tried again: those that had been disabled, too.',
        security: OPERATOR_SECURITY,
        params: Input({ id: ClientIdSchema }),
        body: Input({
          name: Type.Optional(Name),
          contacts: Type.Optional(Contacts),
          ...HOW_TOLD,
          quietHours: Type.Optional(Type.Union([QuietHours, Type.Null()], { description: 'null: none any more' })),
        }),
        response: { 200: ClientBody, ...Problems },
      },
    },
    async (request) => {
      refuseUnusable(request.body)
      const change = { ...request.body, at: clock(), actor: operator(request).actor }
      return bodyOf(db, await changeClient(db, request.params.id, change))
    },
  )

  api.put(
    '/v1/clients/:id',
    {
      schema: {
        operationId: 'replaceClient',
        summary: 'Say anew how a client is told',
        description: 'What is not given is as it is for a new client. Contacts that had been disabled are tried again.',
        security: OPERATOR_SECURITY,
        params: Input({ id: ClientIdSchema }),
        body: Input({ name: Name, contacts: Contacts, ...HOW_TOLD, quietHours: Type.Optional(QuietHours) }),
        response: { 200: ClientBody, ...Problems },
      },
    },
    async (request) => {
      refuseUnusable(request.body)
      const { language = 'en', timeZone = 'UTC', tell = 'first', quietHours = null, name, contacts } = request.body
      const how = { name, contacts, language, timeZone, tell, quietHours }
      return bodyOf(db, await changeClient(db, request.params.id, { ...how, at: clock(), actor: operator(request).actor }))
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
      return bodyOf(db, client)
    },
  )
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}
