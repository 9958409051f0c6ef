/**
 * What tells a client in-band that its key is being replaced: our own field and, for those who know the standards alone,
 * `Deprecation` (RFC 9745, a structured date) and `Sunset` (RFC 8594, an HTTP date) beside it.
 */
import { formatRotationNotice, HEADERS } from '@keyturn/contract'
import type { KeyEntry } from './key-cache.ts'

const NOTHING: Readonly<Record<string, string>> = Object.freeze({})

export function rotationNotice({ sunsetAt, successor, deprecatedAt }: KeyEntry): Readonly<Record<string, string>> {
  if (sunsetAt === undefined || successor === undefined) return NOTHING
  const sunset = new Date(sunsetAt)
  return {
    [HEADERS.rotation]: formatRotationNotice({ sunset, successor }),
    // RFC 9745 section 4: never after the sunset. A registry of before says nothing of it; then it is deprecated by its sunset.
    deprecation: `@${Math.floor(Math.min(deprecatedAt ?? sunsetAt, sunsetAt) / 1_000)}`,
    sunset: sunset.toUTCString(),
  }
}
