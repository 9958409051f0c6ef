/** What a client keeps, as text: for stores that hold a text. */
import { KEY_KINDS, type KeyKind } from '@keyturn/contract/key-kind'
import {
  type PendingClaim,
  type PrivateJwk,
  type RefusedClaim,
  type StoredFirstClaim,
  type StoredKey,
  type StoredValue,
  StoreError,
} from './store.ts'

const FORMAT = 1

type Fields = Readonly<Record<string, unknown>>

const isObject = (value: unknown): value is Fields => typeof value === 'object' && value !== null && !Array.isArray(value)
const isKind = (value: unknown): value is KeyKind => KEY_KINDS.includes(value as KeyKind)
const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''

export const writeDocument = (value: StoredValue): string => JSON.stringify(value)

/**
 * @param where for messages: a path, a URL
 * @throws StoreError unreadable, newer-format
 */
export function readDocument(text: string, where: string): StoredValue {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // The parser's own message quotes what it read.
    throw unreadable(where, 'is not JSON')
  }
  return checkDocument(value, where)
}

/**
 * The same for stores that hold fields.
 * @throws StoreError unreadable, newer-format
 */
export function checkDocument(value: unknown, where: string): StoredValue {
  if (!isObject(value)) throw unreadable(where, 'is not an object')
  const { format, credentialId, current, previous, pending, refused } = value
  if (typeof format === 'number' && format > FORMAT) {
    const message = `${where} has format ${format}, and this version of @keyturn/client reads format ${FORMAT}: update it.`
    throw new StoreError('newer-format', message)
  }
  if (format !== FORMAT) throw unreadable(where, 'has no "format" that is known')
  if (credentialId !== undefined && !isText(credentialId)) throw unreadable(where, '"credentialId" is not a text')
  const of = { format, ...(credentialId === undefined ? {} : { credentialId }) } as const
  if (current === undefined && isKind(value['kind'])) return { ...of, ...readFirstClaim(value, value['kind'], where) }
  return {
    ...of,
    current: readKey(current, where, 'current'),
    ...(previous === undefined ? {} : { previous: readKey(previous, where, 'previous') }),
    ...(pending === undefined ? {} : { pending: readPending(pending, where) }),
    ...(refused === undefined ? {} : { refused: readRefused(refused, where) }),
  }
}

const unreadable = (where: string, what: string): StoreError =>
  new StoreError('unreadable', `${where} ${what}. Put the file of before back, or remove it and give the key anew.`)

function readKey(value: unknown, where: string, name: string): StoredKey {
  if (!isObject(value)) throw unreadable(where, `has no "${name}"`)
  const { keyId, version, kind, token, privateKey } = value
  if (!isText(keyId)) throw unreadable(where, `has no "${name}.keyId"`)
  if (version !== undefined && typeof version !== 'number') throw unreadable(where, `"${name}.version" is not a number`)
  const id = { keyId, ...(version === undefined ? {} : { version }) }
  if (kind === 'ed25519') return { ...id, kind, privateKey: readJwk(privateKey, where, `${name}.privateKey`) }
  if (kind !== 'bearer' && kind !== 'hmac-sha256') throw unreadable(where, `has no "${name}.kind" that is known`)
  if (!isText(token)) throw unreadable(where, `has no "${name}.token"`)
  return { ...id, kind, token }
}

function readFirstClaim({ pending, refused }: Fields, kind: KeyKind, where: string) {
  const { claim, ...rest } = readPending(pending, where)
  if (claim === undefined) throw unreadable(where, 'has no "pending.claim"')
  if (refused !== undefined && !isText(refused)) throw unreadable(where, '"refused" is not a text')
  const read: Omit<StoredFirstClaim, 'format'> = {
    kind,
    pending: { ...rest, claim },
    ...(refused === undefined ? {} : { refused }),
  }
  return read
}

function readPending(value: unknown, where: string): PendingClaim {
  if (!isObject(value)) throw unreadable(where, '"pending" is not an object')
  const { since, privateKey, keyId, claim } = value
  if (!isText(since) || Number.isNaN(Date.parse(since))) throw unreadable(where, '"pending.since" is not a time')
  if (keyId !== undefined && !isText(keyId)) throw unreadable(where, '"pending.keyId" is not a text')
  if (claim !== undefined && !isText(claim)) throw unreadable(where, '"pending.claim" is not a text')
  return {
    since,
    privateKey: readJwk(privateKey, where, 'pending.privateKey'),
    ...(keyId === undefined ? {} : { keyId }),
    ...(claim === undefined ? {} : { claim }),
  }
}

function readRefused(value: unknown, where: string): RefusedClaim {
  if (!isObject(value)) throw unreadable(where, '"refused" is not an object')
  const { keyId, code, until } = value
  if (!isText(keyId) || !isText(code)) throw unreadable(where, '"refused" does not say what was refused')
  if (!isText(until) || Number.isNaN(Date.parse(until))) throw unreadable(where, '"refused.until" is not a time')
  return { keyId, code, until }
}

function readJwk(value: unknown, where: string, name: string): PrivateJwk {
  if (!isObject(value)) throw unreadable(where, `has no "${name}"`)
  const { kty, crv, x, y, d } = value
  if (!isText(kty) || !isText(crv) || !isText(x) || !isText(d)) throw unreadable(where, `"${name}" is not a private key`)
  if (y !== undefined && !isText(y)) throw unreadable(where, `"${name}" is not a private key`)
  return { kty, crv, x, d, ...(y === undefined ? {} : { y }) }
}
