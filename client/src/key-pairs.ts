/** The pairs that a client makes for a claim. */
import { compactDecrypt, importJWK } from 'jose'
import { base64, fromBase64 } from './bytes.ts'
import type { PrivateJwk, StoredKey } from './store.ts'

const exported = async (key: Parameters<typeof crypto.subtle.exportKey>[1]): Promise<PrivateJwk> => {
  const { kty, crv, x, y, d } = await crypto.subtle.exportKey('jwk', key)
  if (kty === undefined || crv === undefined || x === undefined || d === undefined) throw new Error('not a private key')
  return { kty, crv, x, d, ...(y === undefined ? {} : { y }) }
}

/** For a token: the answer is encrypted to it. For an Ed25519 credential: the new key. */
export async function newPair(kind: StoredKey['kind']): Promise<PrivateJwk> {
  const made =
    kind === 'ed25519'
      ? await crypto.subtle.generateKey({ name: 'Ed25519' }, true, ['sign', 'verify'])
      : await crypto.subtle.generateKey({ name: 'ECDH', namedCurve: 'P-256' }, true, ['deriveBits'])
  if (!('privateKey' in made)) throw new Error('no pair was made')
  return exported(made.privateKey)
}

/** The public half, as a claim takes it. */
export function claimBody({ kty, crv, x, y }: PrivateJwk): Record<string, unknown> {
  if (kty === 'OKP') return { publicKey: base64(fromBase64(`${x.replaceAll('-', '+').replaceAll('_', '/')}=`)) }
  return { recipient: { kty, crv, x, y } }
}

const decoder = new TextDecoder('utf-8', { fatal: true })

/** @throws Error when it is not for this recipient */
export async function openJwe(jwe: string, recipient: PrivateJwk): Promise<string> {
  const key = await importJWK({ ...recipient }, 'ECDH-ES')
  const options = { keyManagementAlgorithms: ['ECDH-ES'], contentEncryptionAlgorithms: ['A256GCM'] }
  const { plaintext } = await compactDecrypt(jwe, key, options)
  return decoder.decode(plaintext)
}
