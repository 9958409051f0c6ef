/**
 * What Keyturn signs with when it shows a client's own store who it is. The keys are derived from the key-encryption keys, and stored nowhere: whoever
 * has one of these reads every sealed secret anyway, and with a new one there is a new key here. They are not those of session tokens,
 * which AWS would not take.
 */
import { createECDH, createPrivateKey, hkdfSync, type KeyObject } from 'node:crypto'
import { calculateJwkThumbprint } from 'jose'
import type { Sealer } from './sealing.ts'

/** The order of the curve P-256 (SEC 2, 2.4.2). */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
/** More than the order has, so that no number below it is likelier than another (FIPS 186-5, A.2.1). */
const SEED_BYTES = 48

export interface PublicIdentityKey {
  readonly kty: 'EC'
  readonly crv: 'P-256'
  readonly x: string
  readonly y: string
  /** Its thumbprint (RFC 7638). */
  readonly kid: string
}

export interface IdentityKey {
  readonly publicKey: PublicIdentityKey
  readonly privateKey: KeyObject
}

/** The first one signs; while the key-encryption key is being replaced there are two. */
export const identityKeys = (sealer: Sealer): Promise<IdentityKey[]> =>
  Promise.all(sealer.derivations('identity', 'es256').map(keyOf))

async function keyOf(seed: string): Promise<IdentityKey> {
  const bytes = Buffer.from(hkdfSync('sha256', seed, '', 'keyturn/identity/es256', SEED_BYTES))
  const scalar = (BigInt(`0x${bytes.toString('hex')}`) % (ORDER - 1n)) + 1n
  const d = Buffer.from(scalar.toString(16).padStart(64, '0'), 'hex')
  const pair = createECDH('prime256v1')
  pair.setPrivateKey(d)
  // Uncompressed: 04, x, y.
  const point = pair.getPublicKey()
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString('base64url')) as [string, string]
  const jwk = { kty: 'EC', crv: 'P-256', x, y } as const
  const privateKey = createPrivateKey({ format: 'jwk', key: { ...jwk, d: d.toString('base64url') } })
  return { publicKey: { ...jwk, kid: await calculateJwkThumbprint(jwk) }, privateKey }
}
