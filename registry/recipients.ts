/** Keys that clients make for one claim each, and secrets that are encrypted to them. */
import { createPublicKey, type KeyObject } from 'node:crypto'
import { CLAIM_JWE } from '@keyturn/contract'
import { CompactEncrypt, calculateJwkThumbprint } from 'jose'
import { PublicKeyError } from './public-keys.ts'

export interface ReadRecipient {
  /** RFC 7638, SHA-256, base64url. */
  readonly thumbprint: string
  readonly key: KeyObject
}

/** What a JSON Web Key says of its use, and exports of public keys have in them. */
const HARMLESS: readonly string[] = ['kty', 'crv', 'x', 'y', 'alg', 'use', 'key_ops', 'ext', 'kid']

/**
 * @param jwk a JSON Web Key as it came
 * @throws PublicKeyError
 */
export async function readRecipient(jwk: Readonly<Record<string, unknown>>): Promise<ReadRecipient> {
  // Before all else: whoever sends it has to hear of it.
  if ('d' in jwk)
    throw new PublicKeyError('holds a private key: it never leaves the client. Make another pair, and send the public half')
  const { kty, crv, x, y } = jwk
  if (kty !== 'EC' || crv !== 'P-256') throw new PublicKeyError('must be an EC key on the curve P-256')
  if (!Object.keys(jwk).every((name) => HARMLESS.includes(name)))
    throw new PublicKeyError('must have kty, crv, x and y, and no more than a JSON Web Key says of its use')
  if (!isCoordinate(x) || !isCoordinate(y)) throw new PublicKeyError('must have x and y of 32 bytes in base64url')
  const point = { kty, crv, x, y }
  let key: KeyObject
  try {
    key = createPublicKey({ key: point, format: 'jwk' })
  } catch {
    throw new PublicKeyError('is no point of the curve P-256')
  }
  return { thumbprint: await calculateJwkThumbprint(point, 'sha256'), key }
}

/** In its only encoding: thumbprints are compared. */
const isCoordinate = (text: unknown): text is string =>
  typeof text === 'string' && /^[A-Za-z0-9_-]{43}$/.test(text) && Buffer.from(text, 'base64url').toString('base64url') === text

/** @returns a compact JWE (RFC 7516) */
export const encryptTo = ({ key }: ReadRecipient, secret: string): Promise<string> =>
  new CompactEncrypt(Buffer.from(secret)).setProtectedHeader(CLAIM_JWE).encrypt(key)
