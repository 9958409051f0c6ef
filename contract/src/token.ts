/**
 * The token that a client sends: `<brand>_<environment>_<keyId>_<secret><checksum>`.
 *
 * - brand: 2 to 10 of `[a-z0-9]`, a letter first
 * - environment: `dev`, `test` or `prod`
 * - keyId: 16 base62 characters
 * - secret: 43 base62 characters, 256 bits from a CSPRNG
 * - checksum: the CRC-32 (as in zlib) of everything before it, in base62, padded with `0` to 6 characters
 */
import { hash, randomBytes, randomInt } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { BASE62_DIGITS, bytesToBase62, toBase62 } from './base62.ts'
import { ENVIRONMENTS, type Environment } from './environment.ts'
import { isKeyId, type KeyId } from './ids.ts'

export const DEFAULT_BRAND = 'kt'
export const BRAND_PATTERN = '^[a-z][a-z0-9]{1,9}$'

const KEY_ID_LENGTH = 16
const SECRET_LENGTH = 43
const CHECKSUM_LENGTH = 6
const SECRET_BYTES = 32
const BRAND = new RegExp(BRAND_PATTERN)
const BASE62 = /^[0-9A-Za-z]+$/

export interface TokenParts {
  readonly brand: string
  readonly environment: Environment
  readonly keyId: KeyId
}

/** Why a string is not a token: the first part, from left to right, that is wrong. */
export type TokenFlaw = 'shape' | 'brand' | 'environment' | 'key-id' | 'secret' | 'checksum'

export type ParsedToken = { readonly ok: true; readonly parts: TokenParts } | { readonly ok: false; readonly flaw: TokenFlaw }

/** `length` base62 characters, each drawn evenly by a CSPRNG. */
export function randomBase62(length: number): string {
  let text = ''
  for (let i = 0; i < length; i++) text += BASE62_DIGITS.charAt(randomInt(62))
  return text
}

export const newKeyId = (): KeyId => randomBase62(KEY_ID_LENGTH) as KeyId

export const tokenChecksum = (body: string): string => toBase62(crc32(body), CHECKSUM_LENGTH)

/**
 * Makes a token with a fresh secret.
 * @throws RangeError when a part is not what `parseToken` would accept
 */
export function newToken(parts: TokenParts, secretBytes: Uint8Array = randomBytes(SECRET_BYTES)): string {
  if (!BRAND.test(parts.brand)) throw new RangeError('a brand is 2 to 10 of a–z and 0–9, a letter first')
  if (!ENVIRONMENTS.includes(parts.environment)) throw new RangeError(`an environment is one of ${ENVIRONMENTS.join(', ')}`)
  if (!isKeyId(parts.keyId)) throw new RangeError('a key id has 16 base62 characters')
  if (secretBytes.length !== SECRET_BYTES) throw new RangeError('a secret has 32 bytes')
  const body = `${parts.brand}_${parts.environment}_${parts.keyId}_${bytesToBase62(secretBytes, SECRET_LENGTH)}`
  return body + tokenChecksum(body)
}

/** Reads a token's parts; the secret is not among them. Needs no look-up. */
export function parseToken(token: string): ParsedToken {
  const parts = token.split('_')
  const [brand, environment, keyId, tail] = parts
  if (parts.length !== 4 || brand === undefined || environment === undefined || keyId === undefined || tail === undefined) {
    return { ok: false, flaw: 'shape' }
  }
  if (!BRAND.test(brand)) return { ok: false, flaw: 'brand' }
  if (!(ENVIRONMENTS as readonly string[]).includes(environment)) return { ok: false, flaw: 'environment' }
  if (!isKeyId(keyId)) return { ok: false, flaw: 'key-id' }
  if (tail.length !== SECRET_LENGTH + CHECKSUM_LENGTH || !BASE62.test(tail)) return { ok: false, flaw: 'secret' }
  const body = token.slice(0, -CHECKSUM_LENGTH)
  if (tokenChecksum(body) !== token.slice(-CHECKSUM_LENGTH)) return { ok: false, flaw: 'checksum' }
  return { ok: true, parts: { brand, environment: environment as Environment, keyId } }
}

/** How long a brand's longest token is; all its characters are ASCII. */
export function longestToken(brand: string): number {
  const environment = Math.max(...ENVIRONMENTS.map(({ length }) => length))
  return brand.length + environment + KEY_ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH + 3
}

/** The verifier of a bearer key: SHA-256 of the whole token (UTF-8), in base64 with padding. */
export const tokenSha256 = (token: string): string => hash('sha256', token, 'base64')

/**
 * A regular expression for scanners (RE2 and PCRE alike). What it finds is only a candidate: `parseToken` checks the checksum.
 * @param brand one brand, or all of them when left out. A known brand needs no word boundary before it, so that a token is found
 *   after `%3D` or a JSON string's `\\n` too
 */
export function scannerExpression(brand?: string): string {
  return `${brand ?? '\\b[a-z][a-z0-9]{1,9}'}_(?:${ENVIRONMENTS.join('|')})_[0-9A-Za-z]{${KEY_ID_LENGTH}}_[0-9A-Za-z]{${SECRET_LENGTH + CHECKSUM_LENGTH}}\\b`
}
