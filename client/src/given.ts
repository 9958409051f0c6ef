/** The key that a program starts with. */
import { isKeyId } from '@keyturn/contract/ids'
import type { PrivateJwk, StoredCredential, StoredKey } from './store.ts'

/** A token as it was handed out; with more where the token does not say it all. */
export type Given =
  | string
  | {
      readonly credentialId?: string
      /** `bearer` unless given. */
      readonly kind?: 'bearer' | 'hmac-sha256'
      readonly token: string
      /** Of a token that was imported from another system; others hold theirs. */
      readonly keyId?: string
    }
  | {
      readonly credentialId?: string
      readonly kind: 'ed25519'
      readonly keyId: string
      readonly privateKey: PrivateJwk
    }

/** The third part of a token is the id of its key. */
export function keyIdOf(token: string): string | undefined {
  const parts = token.split('_')
  const [, , keyId = ''] = parts
  return parts.length === 4 && isKeyId(keyId) ? keyId : undefined
}

/** @throws TypeError, which never holds the key */
export function readGiven(given: Given | undefined): StoredCredential | undefined {
  if (given === undefined) return undefined
  const parts = typeof given === 'string' ? { token: given } : given
  const { credentialId } = parts as { credentialId?: string }
  return { format: 1, ...(credentialId === undefined ? {} : { credentialId }), current: keyOf(parts) }
}

function keyOf(given: Exclude<Given, string>): StoredKey {
  if (given.kind === 'ed25519') return { keyId: given.keyId, kind: 'ed25519', privateKey: given.privateKey }
  const { kind = 'bearer', token } = given
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new TypeError('the key holds a space, a line end or other than ASCII: copy it as a whole')
  const keyId = given.keyId ?? keyIdOf(token)
  if (keyId !== undefined) return { keyId, kind, token }
  if (kind === 'hmac-sha256') throw new TypeError('give the keyId of a key that was imported')
  return { keyId: 'imported', kind, token }
}
