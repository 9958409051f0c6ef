/** What an RFC 9421 signature is made over (section 2.5), from a request as it arrived. */
import type { RequestInfo } from '../request-info.ts'
import { anyFieldValue } from './fields.ts'
import { Flaw } from './flaw.ts'
import type { SignatureInput } from './signature-input.ts'

/** A request as its signer saw it: where it was sent to is not always what arrives behind a proxy. */
export interface Target extends Pick<RequestInfo, 'headers'> {
  readonly method: string
  readonly scheme: string
  /** In lower case, without the port that the scheme has by default. */
  readonly authority: string
  /** Path with query, as it stood in the request line. */
  readonly url: string
}

export const NOT_ASCII = /[^\t\x20-\x7e]/

function derived(name: string, { method, scheme, authority, url }: Target): string | undefined {
  const mark = url.indexOf('?')
  switch (name) {
    case '@method':
      return method
    case '@target-uri':
      return `${scheme}://${authority}${url}`
    case '@authority':
      return authority
    case '@scheme':
      return scheme
    case '@request-target':
      return url
    case '@path':
      return mark < 0 ? url : url.slice(0, mark)
    case '@query':
      return mark < 0 ? '?' : url.slice(mark)
    default:
      return undefined
  }
}

export function signatureBase(
  { components, params }: Pick<SignatureInput, 'components' | 'params'>,
  target: Target,
): string | Flaw {
  let base = ''
  for (const name of components) {
    const value = name.charCodeAt(0) === 64 ? derived(name, target) : anyFieldValue(target.headers, name)
    if (value === undefined) {
      return new Flaw(name.startsWith('@') ? `"${name}" can not be covered here` : `"${name}" is covered and was not sent`)
    }
    if (NOT_ASCII.test(value)) return new Flaw(`"${name}" is covered and holds other than ASCII characters`)
    base += `"${name}": ${value}\n`
  }
  return `${base}"@signature-params": ${params}`
}
