/**
 * What stores with named fields keep: Keyturn's document in one, and beside it the key in use, so that a program can read that by itself.
 * Fields of others stay as they are.
 */
import { checkDocument, readDocument, writeDocument } from '../document.ts'
import { keyIdOf } from '../given.ts'
import { kindOf, type StoredCredential, type StoredKey, type StoredValue, StoreError } from '../store.ts'

export type Fields = Readonly<Record<string, unknown>>

export interface FieldOptions {
  /** The field with the key in use: a token, or of Ed25519 the private key as a JWK. `token` unless given. */
  readonly field?: string
  /** Only this credential's key is taken; another one's is refused. */
  readonly credentialId?: string
  /** Of a token that stands there without a document. `bearer` unless given. */
  readonly kind?: 'bearer' | 'hmac-sha256'
}

/** The field with the document. */
export const DOCUMENT = 'keyturn'

const shown = (key: StoredKey): string => (key.kind === 'ed25519' ? JSON.stringify(key.privateKey) : key.token)

/** `others` with the fields of a credential set. @throws StoreError wrong-credential */
export function withCredential(
  value: StoredValue,
  others: Fields,
  { field = 'token', credentialId }: FieldOptions,
): Record<string, unknown> {
  requireCredential(value, credentialId, 'what is to be stored')
  const { current } = value
  const inUse = current === undefined ? {} : { [field]: shown(current), keyId: current.keyId }
  return { ...others, ...inUse, [DOCUMENT]: writeDocument(value) }
}

/**
 * A token that somebody has put there by hand, with no document or beside an older one, is the key in use.
 * @param where for messages
 * @returns undefined when there is neither a token nor a document
 * @throws StoreError unreadable, newer-format, wrong-credential
 */
export function credentialOf(
  fields: Fields,
  where: string,
  { field = 'token', credentialId, kind = 'bearer' }: FieldOptions,
): StoredValue | undefined {
  const { [DOCUMENT]: document, [field]: inUse } = fields
  const written =
    document === undefined
      ? undefined
      : typeof document === 'string'
        ? readDocument(document, `${where}, field ${DOCUMENT},`)
        : checkDocument(document, `${where}, field ${DOCUMENT},`)
  if (written !== undefined) requireCredential(written, credentialId, where)
  if (inUse === undefined || (written?.current !== undefined && inUse === shown(written.current))) return written
  const known = written === undefined ? kind : kindOf(written)
  return byHand(inUse, written?.credentialId, known === 'hmac-sha256' ? known : 'bearer', `${where}, field ${field},`)
}

function byHand(
  inUse: unknown,
  credentialId: string | undefined,
  kind: 'bearer' | 'hmac-sha256',
  where: string,
): StoredCredential {
  const token = typeof inUse === 'string' ? inUse.trim() : ''
  const keyId = keyIdOf(token)
  if (keyId === undefined) {
    throw new StoreError('unreadable', `${where} is not a key. Put the key there as a whole, or name another field.`)
  }
  return { format: 1, ...(credentialId === undefined ? {} : { credentialId }), current: { keyId, kind, token } }
}

function requireCredential(value: StoredValue, credentialId: string | undefined, where: string): void {
  if (credentialId === undefined || value.credentialId === undefined || value.credentialId === credentialId) return
  const message = `${where} is of credential ${value.credentialId}, not of ${credentialId}. Name another place, or the other credential.`
  throw new StoreError('wrong-credential', message)
}
