/** Header fields of a request, as signatures see them (RFC 9421 section 2.1). */
import type { RequestInfo } from '../request-info.ts'
import { Flaw } from './flaw.ts'

type Fields = RequestInfo['headers']

const AROUND = /^[ \t]+|[ \t]+$/g
const stripped = (value: string): string => {
  const [first, last] = [value.charCodeAt(0), value.charCodeAt(value.length - 1)]
  return first === 32 || first === 9 || last === 32 || last === 9 ? value.replace(AROUND, '') : value
}

/** All values of a field, blanks around each removed, joined by a comma and a space; nothing when it was not sent. */
export function fieldValue(fields: Fields, name: string): string | undefined {
  // A field named `constructor` is the object's own only when it was sent.
  if (!Object.hasOwn(fields, name)) return undefined
  const value = fields[name]
  if (value === undefined) return undefined
  if (typeof value === 'string') return stripped(value)
  return value.length === 1 ? stripped(value[0] ?? '') : value.map(stripped).join(', ')
}

/** The value of a field that may be sent once. */
export function onlyValue(fields: Fields, name: string): string | Flaw | undefined {
  if (!Object.hasOwn(fields, name)) return undefined
  const value = fields[name]
  return typeof value === 'object' && value.length > 1 ? new Flaw(`${name} was sent more than once`) : fieldValue(fields, name)
}
