/** Where requests come from, fit to be shown to people: no control characters, nothing long, nothing that looks like a key. */
import { isIP } from 'node:net'
import { networkOf, scannerExpression } from '@keyturn/contract'

export const MAX_USER_AGENT = 200
/** Longer ones are cut before they are looked at; what counts is in the first 200 characters anyway. */
const LOOKED_AT = 2_048
export const REMOVED = '[removed: looks like a key]'
const MOST_REMEMBERED = 2_000

/** Also inside other words, where the expression for scanners stops at word borders; and any run that could be a secret alone. */
const LOOKS_LIKE_A_KEY = new RegExp(`${scannerExpression().replaceAll('\\b', '')}|[0-9A-Za-z+/]{40,}`)
const NOT_PRINTABLE = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}]+/gu

function clean(userAgent: string): string {
  const looked = userAgent.slice(0, LOOKED_AT).replaceAll(NOT_PRINTABLE, ' ')
  return LOOKS_LIKE_A_KEY.test(looked) ? REMOVED : looked.trim().slice(0, MAX_USER_AGENT)
}

/** @returns a function from (user agent as sent, the token of the same request, where one was shown) to what may be reported */
export function createUserAgentCleaner(): (userAgent: string | undefined, token: string | undefined) => string {
  const remembered = new Map<string, string>()
  return (userAgent, token) => {
    if (userAgent === undefined || userAgent === '') return ''
    // A key imported from elsewhere has no format to be known by.
    if (token !== undefined && userAgent.includes(token)) return REMOVED
    const known = remembered.get(userAgent)
    if (known !== undefined) return known
    const cleaned = clean(userAgent)
    if (remembered.size >= MOST_REMEMBERED) remembered.clear()
    if (cleaned !== REMOVED) remembered.set(userAgent, cleaned)
    return cleaned
  }
}

/** An address as people write it, or nothing. IPv4 inside IPv6 is shown as IPv4. */
export function cleanAddress(address: string | undefined): string | undefined {
  if (address === undefined) return undefined
  const bare = address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address
  return isIP(bare) === 0 || bare.length > 64 ? undefined : bare
}

/** Whose an address is, for what is counted or bounded by it: all that have none are one. */
export const callerNetwork = (address: string | undefined): string => networkOf(cleanAddress(address) ?? 'unknown')
