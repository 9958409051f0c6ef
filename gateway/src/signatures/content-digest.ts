/** `Content-Digest` (RFC 9530): sha-256 and sha-512. What else stands beside one of them is ignored, as the RFC wants; alone it is of no use. */
import { hash } from 'node:crypto'
import { type Dictionary, parseDictionary } from 'structured-headers'
import { Flaw } from './flaw.ts'

const DIGESTS = [
  { name: 'sha-256', algorithm: 'sha256' },
  { name: 'sha-512', algorithm: 'sha512' },
] as const

export interface ContentDigest {
  readonly algorithm: 'sha256' | 'sha512'
  readonly base64: string
}

const ONE = /^sha-256=:([A-Za-z0-9+/]{43}=):$/

/** @returns all that have to fit */
export function parseContentDigest(value: string): readonly ContentDigest[] | Flaw {
  const only = ONE.exec(value)?.[1]
  if (only !== undefined) return [{ algorithm: 'sha256', base64: only }]
  let dictionary: Dictionary
  try {
    dictionary = parseDictionary(value)
  } catch {
    return new Flaw('Content-Digest is not readable: sha-256=:base64:')
  }
  const digests: ContentDigest[] = []
  for (const { name, algorithm } of DIGESTS) {
    const member = dictionary.get(name)
    if (member === undefined) continue
    const bytes = member[0]
    if (!(bytes instanceof ArrayBuffer)) return new Flaw('Content-Digest is not readable: sha-256=:base64:')
    digests.push({ algorithm, base64: Buffer.from(bytes).toString('base64') })
  }
  return digests.length > 0 ? digests : new Flaw('Content-Digest is of no kind that is known here; use sha-256 or sha-512')
}

export const fits = (digests: readonly ContentDigest[], body: Buffer): boolean =>
  digests.every(({ algorithm, base64 }) => hash(algorithm, body, 'base64') === base64)
