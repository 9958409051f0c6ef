/** A key that a provider issued before Keyturn, as an import brings it: the SHA-256 of its token, and never the token. */
import { ENVIRONMENTS, type Environment } from './environment.ts'
import { isScope } from './key-record.ts'
import { looksLikeAnyKey } from './stray-key.ts'
import { ALPHABET_NAMES, type Alphabet, bitsOf, ENOUGH_BITS } from './strength.ts'

export const REQUIRED_IMPORT_FIELDS = ['sha256', 'client', 'name', 'environment', 'scopes'] as const
/** All, in the order of the documentation. */
export const IMPORT_FIELDS: readonly string[] = [
  ...REQUIRED_IMPORT_FIELDS,
  'createdAt',
  'expiresAt',
  'length',
  'alphabet',
  'bits',
]
/** How many keys one request brings at most, and how many bytes. */
export const MOST_IMPORTED_AT_ONCE = 1_000
export const MOST_IMPORTED_BYTES = 1_048_576
export const NDJSON_MEDIA_TYPE = 'application/x-ndjson'

export interface ImportedKey {
  /** Base64 with padding, as in a verifier. */
  readonly sha256: string
  /** An id (`cli_…`), or a name. */
  readonly client: string
  readonly name: string
  readonly environment: Environment
  readonly scopes: readonly string[]
  /** RFC 3339, as `Date` writes it. */
  readonly createdAt?: string
  readonly expiresAt?: string
  /** How strong its token is at most; absent when nobody says. */
  readonly bits?: number
}

export type CheckedImport =
  | { readonly ok: true; readonly key: ImportedKey }
  /** For a person; holds nothing of the row. */
  | { readonly ok: false; readonly message: string }

class Flaw extends Error {}

/**
 * Reads one row: texts as they stand in a CSV file (an empty one is absent), or the fields of a JSON object.
 * @param now ms since the epoch
 */
export function checkImportedKey(row: Readonly<Record<string, unknown>>, now: number): CheckedImport {
  try {
    const unknown = Object.keys(row).findIndex((name) => !IMPORT_FIELDS.includes(name))
    // Its name is not repeated: it may be a token that has slipped.
    if (unknown !== -1) throw new Flaw(`field ${unknown + 1} is none of ${IMPORT_FIELDS.join(', ')}`)
    const createdAt = timeOf(row, 'createdAt')
    const expiresAt = timeOf(row, 'expiresAt')
    if (createdAt !== undefined && Date.parse(createdAt) > now + CLOCKS_MS) throw new Flaw('createdAt: lies in the future')
    if (createdAt !== undefined && expiresAt !== undefined && expiresAt <= createdAt)
      throw new Flaw('expiresAt: is not after createdAt')
    const bits = strengthIn(row)
    const key: ImportedKey = {
      sha256: digestOf(row),
      client: nameOf(row, 'client', 200),
      name: nameOf(row, 'name', 100),
      environment: environmentOf(row),
      scopes: scopesOf(row),
      ...(createdAt === undefined ? {} : { createdAt }),
      ...(expiresAt === undefined ? {} : { expiresAt }),
      ...(bits === undefined ? {} : { bits }),
    }
    return { ok: true, key }
  } catch (error) {
    if (error instanceof Flaw) return { ok: false, message: error.message }
    throw error
  }
}

/** Why a key is too weak, if it is. */
export function weaknessOf({ bits }: ImportedKey): string | undefined {
  if (bits === undefined) return 'nothing says how strong the token is: give length and alphabet, or bits'
  return bits < ENOUGH_BITS ? `a token of at most ${bits} bits, fewer than ${ENOUGH_BITS}` : undefined
}

/** By how much clocks may differ. */
const CLOCKS_MS = 5 * 60_000
const NAME = /^[^\s\p{C}](?:[^\p{C}]*[^\s\p{C}])?$/u
const HEX_DIGEST = /^[0-9a-fA-F]{64}$/
const BASE64_DIGEST = /^[A-Za-z0-9+/]{43}=$/
const TIME = /^(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}):(\d{2}):(\d{2})(?:\.\d{1,9})?Z)?$/
const NO_DIGEST =
  'sha256: not a SHA-256 digest (64 hexadecimal digits, or base64 with its padding). If it is a token, it lies open in this file: `keyturn import hash` makes digests'

function textOf(row: Readonly<Record<string, unknown>>, field: string): string | undefined {
  const value = row[field]
  if (value === undefined || value === '') return undefined
  if (typeof value !== 'string') throw new Flaw(`${field}: must be a text`)
  return value
}

function requiredText(row: Readonly<Record<string, unknown>>, field: string): string {
  const text = textOf(row, field)
  if (text === undefined) throw new Flaw(`${field}: is missing`)
  return text
}

function digestOf(row: Readonly<Record<string, unknown>>): string {
  const text = requiredText(row, 'sha256')
  if (HEX_DIGEST.test(text)) return Buffer.from(text, 'hex').toString('base64')
  if (!BASE64_DIGEST.test(text) || Buffer.from(text, 'base64').toString('base64') !== text) throw new Flaw(NO_DIGEST)
  return text
}

function nameOf(row: Readonly<Record<string, unknown>>, field: string, most: number): string {
  const text = requiredText(row, field)
  if (looksLikeAnyKey(text)) throw new Flaw(`${field}: holds something that looks like a key; this is kept, and others read it`)
  if (text.length > most || !NAME.test(text))
    throw new Flaw(`${field}: must have 1 to ${most} printable characters, without spaces around them`)
  return text
}

function environmentOf(row: Readonly<Record<string, unknown>>): Environment {
  const text = requiredText(row, 'environment')
  const environment = ENVIRONMENTS.find((known) => known === text)
  if (environment === undefined) throw new Flaw(`environment: must be one of ${ENVIRONMENTS.join(', ')}`)
  return environment
}

function scopesOf(row: Readonly<Record<string, unknown>>): readonly string[] {
  const { scopes: given } = row
  if (given === undefined) throw new Flaw('scopes: is missing')
  if (typeof given !== 'string' && !Array.isArray(given)) throw new Flaw('scopes: must be a list, or words with spaces or commas')
  const scopes: readonly unknown[] = typeof given === 'string' ? given.split(/[\s,;]+/).filter((word) => word !== '') : given
  if (scopes.length > 100) throw new Flaw('scopes: must be 100 or fewer')
  if (new Set(scopes).size < scopes.length) throw new Flaw('scopes: the same one stands there twice')
  return scopes.map((scope, i) => {
    if (typeof scope !== 'string' || scope.length > 100 || !isScope(scope))
      throw new Flaw(`scopes: number ${i + 1} is not a scope like trade:orders`)
    return scope
  })
}

/** A day, which is its beginning in UTC, or a time as in RFC 3339 with a Z. */
function timeOf(row: Readonly<Record<string, unknown>>, field: string): string | undefined {
  const text = textOf(row, field)
  if (text === undefined) return undefined
  const parts = TIME.exec(text)
  if (parts === null) throw new Flaw(`${field}: must look like 2024-02-29 or 2024-02-29T08:00:00Z`)
  const time = new Date(text)
  // `Date` takes the 30th of February for the 1st of March.
  const [, , , day, hour = '00', minute = '00', second = '00'] = parts
  const there = [time.getUTCDate(), time.getUTCHours(), time.getUTCMinutes(), time.getUTCSeconds()]
  if (Number.isNaN(time.getTime()) || there.join() !== [day, hour, minute, second].map(Number).join())
    throw new Flaw(`${field}: there is no such date`)
  return time.toISOString()
}

/** The least of what the row says. */
function strengthIn(row: Readonly<Record<string, unknown>>): number | undefined {
  const said = numberOf(row, 'bits', 100_000)
  const length = numberOf(row, 'length', 10_000)
  const name = textOf(row, 'alphabet')
  if ((length === undefined) !== (name === undefined)) throw new Flaw('length and alphabet: give both, or bits')
  if (length === undefined) return said
  const alphabet = ALPHABET_NAMES.find((known): known is Alphabet => known === name)
  if (alphabet === undefined) throw new Flaw(`alphabet: must be one of ${ALPHABET_NAMES.join(', ')}`)
  return Math.min(said ?? Number.POSITIVE_INFINITY, bitsOf({ length, alphabet }))
}

function numberOf(row: Readonly<Record<string, unknown>>, field: string, most: number): number | undefined {
  const value = row[field]
  if (value === undefined || value === '') return undefined
  const number = typeof value === 'string' && /^\d{1,6}$/.test(value) ? Number(value) : value
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 1 || number > most)
    throw new Flaw(`${field}: must be a whole number from 1 to ${most}`)
  return number
}
