/** Header fields of a request, as signatures see them (RFC 9421 section 2.1). */
import type { RequestInfo } from '../request-info.ts'
import { Flaw } from './flaw.ts'

type Fields = RequestInfo['headers']
type FieldWeKnow =
  | 'signature-input'
  | 'signature'
  | 'content-digest'
  | 'x-sequence'
  | 'x-key-id'
  | 'x-timestamp'
  | 'x-nonce'
  | 'x-signature'

const AROUND = /^[ \t]+|[ \t]+$/g
const stripped = (value: string): string => {
  const [first, last] = [value.charCodeAt(0), value.charCodeAt(value.length - 1)]
  return first === 32 || first === 9 || last === 32 || last === 9 ? value.replace(AROUND, '') : value
}

function joined(value: string | readonly string[] | undefined): string | undefined {
  if (value === undefined || typeof value === 'string') return value === undefined ? undefined : stripped(value)
  return value.length === 1 ? stripped(value[0] as string) : value.map(stripped).join(', ')
}

/** All values of a field, blanks around each removed, joined by a comma and a space; nothing when it was not sent. */
export const fieldValue = (fields: Fields, name: FieldWeKnow): string | undefined => joined(fields[name])

/** The same of a field that the caller names: `constructor` is the object's own only when it was sent. */
export const anyFieldValue = (fields: Fields, name: string): string | undefined =>
  Object.hasOwn(fields, name) ? joined(fields[name]) : undefined

/** The value of a field that may be sent once. */
export function onlyValue(fields: Fields, name: FieldWeKnow): string | Flaw | undefined {
  const value = fields[name]
  if (value === undefined) return undefined
  return typeof value === 'object' && value.length > 1 ? new Flaw(`${name} was sent more than once`) : joined(value)
}
