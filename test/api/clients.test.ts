import { expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { noteTrouble } from '../../registry/contact-troubles.ts'
import { apiHouse } from './support.ts'

const at = apiHouse({ gateways: 0, worker: false, collector: false })

interface ClientBody {
  readonly clientId: string
  readonly contacts: readonly { readonly contactId: string; readonly disabledAt?: string; readonly failing?: object }[]
}
const HOOK = { channel: 'webhook', url: 'https://acme.example/hook?token=s3cr3t' }
const MAIL = { channel: 'email', address: 'jo.secret@acme.example' }
const ALL = {
  name: 'Acme',
  contacts: [HOOK, MAIL, { channel: 'slack', url: 'https://hooks.slack.example/services/T/B/x' }],
  language: 'de',
  timeZone: 'Europe/Berlin',
  quietHours: { from: '22:00', to: '07:00' },
  tell: 'all',
}
const create = async (body: object = { name: 'Acme' }) => (await at.client.post<ClientBody>('/v1/clients', body)).body
const change = (method: 'PATCH' | 'PUT', { clientId }: ClientBody, body: object) =>
  at.client.request<ClientBody>(method, `/v1/clients/${clientId}`, { body })

test('how a client is told can be said when it is made, changed in part, and said anew', async () => {
  const client = await create(ALL)
  expect(client).toMatchObject(ALL)
  const changed = await change('PATCH', client, { language: 'en', contacts: [MAIL] })
  expect(changed.body).toMatchObject({ ...ALL, language: 'en', contacts: [MAIL] })
  expect((await change('PATCH', client, { quietHours: null })).body).not.toHaveProperty('quietHours')
  const anew = await change('PUT', client, { name: 'Acme Ltd', contacts: [HOOK] })
  expect(anew.body).toMatchObject({ name: 'Acme Ltd', contacts: [HOOK], language: 'en', timeZone: 'UTC', tell: 'first' })
  expect((await at.client.get(`/v1/clients/${client.clientId}`)).body).toEqual(anew.body)
})

test('G5: the audit log says that it was changed, and names hosts alone', async () => {
  const client = await create(ALL)
  await change('PATCH', client, { contacts: [HOOK, MAIL] })
  const [entry] = (await listAudit(at.house.db, { subject: client.clientId, limit: 10 })).filter(
    ({ action }) => action === 'client.changed',
  )
  expect(entry?.detail['contacts']).toEqual(['webhook acme.example', 'email acme.example'])
  expect(JSON.stringify(entry)).not.toMatch(/s3cr3t|jo\.secret/)
})

test('a contact that is no longer used shows that, and is used again when the contacts are given anew', async () => {
  const client = await create({ name: 'Acme', contacts: [MAIL] })
  const { clientId, contacts } = client
  const trouble = { clientId, contactId: contacts[0]?.contactId ?? '', contact: 'email acme.example', why: 'answered 550' }
  const since = new Date()
  for (let i = 0; i < 3; i++) await noteTrouble(at.house.db, { ...trouble, since, at: since })
  const shown = await at.client.get<ClientBody>(`/v1/clients/${clientId}`)
  expect(shown.body.contacts).toMatchObject([
    { disabledAt: since.toISOString(), failing: { messages: 3, since: since.toISOString(), why: 'answered 550' } },
  ])
  expect((await change('PATCH', client, { language: 'de' })).body.contacts[0]).toHaveProperty('disabledAt')
  expect((await change('PATCH', client, { contacts: [MAIL] })).body.contacts[0]).not.toHaveProperty('disabledAt')
})

test.each([
  [
    'an e-mail with a line break',
    { contacts: [{ ...MAIL, address: 'a@b.example\r\nBcc: c@d.example' }] },
    '/contacts/0/address',
    'line breaks',
  ],
  [
    'no e-mail address',
    { contacts: [HOOK, { ...MAIL, address: 'Jo <a@b.example>' }] },
    '/contacts/1/address',
    'is not an e-mail address',
  ],
  ['an e-mail without one', { contacts: [{ channel: 'email' }] }, '/contacts/0/address', 'is missing'],
  ['an e-mail with a URL', { contacts: [{ ...MAIL, url: HOOK.url }] }, '/contacts/0/url', 'has no place here'],
  ['http to where others can read', { contacts: [{ ...HOOK, url: 'http://acme.example' }] }, '/contacts/0/url', 'https'],
  ['a private address', { contacts: [{ ...HOOK, url: 'https://10.0.0.1' }] }, '/contacts/0/url', 'private'],
  ['the same contact twice', { contacts: [MAIL, MAIL] }, '/contacts/1/address', 'twice'],
  ['a time zone that is none', { timeZone: 'Mars/Olympus' }, '/timeZone', 'is not a time zone'],
  ['a language that we do not write', { language: 'xx' }, '/language', 'must be'],
  ['a time that is none', { quietHours: { from: '25:00', to: '07:00' } }, '/quietHours/from', 'time of the day'],
  ['quiet hours that never end', { quietHours: { from: '07:00', to: '07:00' } }, '/quietHours/to', 'leave them out'],
])('%s is refused, by its path', async (_, body, path, message) => {
  const { clientId } = await create()
  const refusal = await at.client.refusal('PUT', `/v1/clients/${clientId}`, { body: { name: 'Acme', contacts: [], ...body } })
  expect([refusal.status, refusal.errors]).toEqual([400, [{ path, message: expect.stringContaining(message) }]])
})

test('a client that there is not can not be changed', async () => {
  const path = '/v1/clients/cli_0000000000000000'
  expect((await at.client.refusal('PATCH', path, { body: {} })).code).toBe('unknown-client')
  expect((await at.client.refusal('PUT', path, { body: { name: 'x', contacts: [] } })).code).toBe('unknown-client')
})
