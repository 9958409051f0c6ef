/** Where a client is told, and what is wrong with where it says. */
import { createHash } from 'node:crypto'
import { isIP } from 'node:net'
import type { AddressBlock, Channel } from '@keyturn/contract'
import { isAmong, whyNotPublic } from './public-address.ts'

export type Contact =
  | { readonly channel: 'webhook' | 'slack'; readonly url: string }
  | { readonly channel: 'email'; readonly address: string }

/** What a contact is called where its address is not to be read: it stays the same as long as the address does. */
export const contactIdOf = (clientId: string, contact: Contact): string =>
  `con_${createHash('sha256')
    .update(`${clientId}\n${contact.channel}\n${addressOf(contact)}`)
    .digest('hex')
    .slice(0, 16)}`

export const addressOf = (contact: Contact): string => (contact.channel === 'email' ? contact.address : contact.url)

/** A contact as logs, alerts and the audit log may call it: what is before an `@`, or after a host, is not theirs to know. */
export const contactText = (contact: Contact): string => `${contact.channel} ${hostOf(contact)}`

const hostOf = (contact: Contact): string =>
  contact.channel === 'email' ? contact.address.slice(contact.address.lastIndexOf('@') + 1) : new URL(contact.url).host

/** One address (RFC 5321), without a name, quotes or comments, and nothing that could end a header. */
const EMAIL =
  /^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$/
const LONGEST_EMAIL = 254

export interface ContactFlaw {
  readonly path: string
  readonly message: string
}

/** What is wrong with contacts; the paths are JSON Pointers into the request. */
export const flawsOfContacts = (contacts: readonly Contact[], allow: readonly AddressBlock[]): ContactFlaw[] => {
  const seen = new Set<string>()
  return contacts.flatMap((contact, i) => {
    const wrong = misfit(contact)
    if (wrong !== undefined) return [{ path: `/contacts/${i}/${wrong.field}`, message: wrong.message }]
    const field = contact.channel === 'email' ? 'address' : 'url'
    const name = `${contact.channel} ${addressOf(contact)}`
    const message = seen.has(name) ? 'is given twice' : flawOf(contact, allow)
    seen.add(name)
    return message === undefined ? [] : [{ path: `/contacts/${i}/${field}`, message }]
  })
}

const flawOf = (contact: Contact, allow: readonly AddressBlock[]): string | undefined =>
  contact.channel === 'email'
    ? flawOfEmail(contact.address)
    : flawOfUrl(contact.url, contact.channel === 'slack' ? 'Slack messages' : 'webhooks', allow)

/** What comes from outside may lack the field that its channel needs, or have the other one. */
function misfit(contact: { channel: Channel; url?: string; address?: string }): { field: string; message: string } | undefined {
  const [has, hasNot] = contact.channel === 'email' ? (['address', 'url'] as const) : (['url', 'address'] as const)
  if (contact[has] === undefined) return { field: has, message: 'is missing' }
  return contact[hasNot] === undefined
    ? undefined
    : { field: hasNot, message: `has no place here: a contact by ${contact.channel} has ${has}` }
}

function flawOfEmail(address: string): string | undefined {
  if (/[\p{Cc}\u2028\u2029]/u.test(address)) return 'must not hold line breaks or other control characters'
  if (address.length > LONGEST_EMAIL) return `must have ${LONGEST_EMAIL} characters or fewer`
  return EMAIL.test(address) && !/^\.|\.\.|\.@/.test(address) ? undefined : 'is not an e-mail address like ops@example.com'
}

/**
 * User and password in it would be stored as plain text, and are not sent. Names are looked up when something is sent.
 * @param what is sent there, in the plural
 */
export function flawOfUrl(text: string, what: string, allow: readonly AddressBlock[]): string | undefined {
  if (!URL.canParse(text)) return 'is not a URL'
  const url = new URL(text)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'is not an http or https URL'
  if (url.username + url.password !== '') return 'must not hold a user or a password'
  const literal = literalAddress(url)
  const closed = literal === undefined ? undefined : whyNotPublic(literal, allow)
  if (closed !== undefined) return `leads to ${closed}: ${what} go to public addresses alone`
  if (url.protocol === 'http:' && (literal === undefined || !isAmong(allow, literal)))
    return 'must begin with https: what is sent over http, others can read'
  return undefined
}

/** The address that a URL names without the help of a name server. */
export function literalAddress({ hostname }: URL): string | undefined {
  if (/^(.+\.)?localhost\.?$/.test(hostname)) return '127.0.0.1'
  const bare = hostname.replace(/^\[(.*)\]$/, '$1')
  return isIP(bare) === 0 ? undefined : bare
}
