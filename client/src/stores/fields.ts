/**
 * What stores with named fields keep: Keyturn's document in one, and beside it the key in use, so that a program can read that by itself.
 * Fields of others stay as they are.
 */
import { checkDocument, readDocument, writeDocument } from '../document.ts'
import { keyIdOf } from '../given.ts'
import { type StoredCredential, type StoredKey, StoreError } from '../store.ts'

export type Fields = Readonly<Record<string, unknown>>

export interface FieldOptions {
  /** The field with the key in use: a token, or of Ed25519 the private key as a JWK. `token` unless given. */
  readonly field?: string
  /** Only this credential's key is taken; another one's is refused. */
  readonly credentialId?: string
}

/** The field with the document. */
export const DOCUMENT = 'keyturn'

const shown = (key: StoredKey): string => (key.kind === 'ed25519' ? JSON.stringify(key.privateKey) : key.token)

/** `others` with the fields of a credential set. @throws StoreError wrong-credential */
export function withCredential(
  value: StoredCredential,
  others: Fields,
  { field = 'token', credentialId }: FieldOptions,
): Record<string, unknown> {
  requireCredential(value, credentialId, 'what is to be stored')
  return { ...others, [field]: shown(value.current), keyId: value.current.keyId, [DOCUMENT]: writeDocument(value) }
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
  { field = 'token', credentialId }: FieldOptions,
): StoredCredential | undefined {
  const { [DOCUMENT]: document, [field]: inUse } = fields
  const written =
    document === undefined
      ? undefined
      : typeof document === 'string'
        ? readDocument(document, `${where}, field ${DOCUMENT},`)
        : checkDocument(document, `${where}, field ${DOCUMENT},`)
  if (written !== undefined) requireCredential(written, credentialId, where)
  if (inUse === undefined || (written !== undefined && inUse === shown(written.current))) return written
  return byHand(inUse, written, `${where}, field ${field},`)
}

function byHand(inUse: unknown, written: StoredCredential | undefined, where: string): StoredCredential {
  const token = typeof inUse === 'string' ? inUse.trim() : ''
  const keyId = keyIdOf(token)
  if (keyId === undefined) {
    throw new StoreError('unreadable', `${where} is not a key. Put the key there as a whole, or name another field.`)
  }
  const kind = written?.current.kind === 'hmac-sha256' ? 'hmac-sha256' : 'bearer'
  return {
    format: 1,
    ...(written?.credentialId === undefined ? {} : { credentialId: written.credentialId }),
    current: { keyId, kind, token },
  }
}

function requireCredential(value: StoredCredential, credentialId: string | undefined, where: string): void {
  if (credentialId === undefined || value.credentialId === undefined || value.credentialId === credentialId) return
  const message = `${where} is of credential ${value.credentialId}, not of ${credentialId}. Name another place, or the other credential.`
  throw new StoreError('wrong-credential', message)
}
