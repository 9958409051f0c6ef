/** A client as the API answers it, and as people read it. */
import type { Channel, Language, QuietHours, Tell } from '@keyturn/contract/channels'
import { plain, table } from './output.ts'
import { clock } from './rendering.ts'

export interface Contact {
  readonly channel: Channel
  /** Of webhook and slack. */
  readonly url?: string
  /** Of email. */
  readonly address?: string
}

export interface ContactAnswer extends Contact {
  readonly contactId: string
  /** Messages in a row that were given up. */
  readonly failing?: { readonly messages: number; readonly since: string; readonly why: string }
  readonly disabledAt?: string
}

export interface ClientAnswer {
  readonly clientId: string
  readonly name: string
  readonly contacts: readonly ContactAnswer[]
  readonly language: Language
  readonly timeZone: string
  readonly quietHours?: QuietHours
  readonly tell: Tell
}

export const pathOf = (clientId: string): string => `/v1/clients/${encodeURIComponent(clientId)}`

export const addressOf = ({ address, url }: Contact): string => plain(address ?? url ?? '')

const troubleOf = ({ failing, disabledAt }: ContactAnswer): string => {
  if (disabledAt !== undefined) return `disabled at ${clock(disabledAt)}`
  if (failing === undefined) return ''
  return `failing since ${clock(failing.since)} (${failing.messages}): ${plain(failing.why)}`
}

export const contactsText = ({ contacts }: Pick<ClientAnswer, 'contacts'>): string =>
  contacts.length === 0
    ? 'no contacts'
    : table(
        ['contact', 'channel', 'address', ''],
        contacts.map((contact) => [contact.contactId, contact.channel, addressOf(contact), troubleOf(contact)]),
      )

export const clientText = (client: ClientAnswer): string => {
  const { clientId, name, language, timeZone, quietHours, tell } = client
  return [
    `${clientId}  ${plain(name)}`,
    `language     ${language}`,
    `time zone    ${plain(timeZone)}`,
    `quiet hours  ${quietHours === undefined ? 'none' : `${quietHours.from}-${quietHours.to}`}`,
    `tell         ${tell}`,
    contactsText(client),
  ].join('\n')
}
