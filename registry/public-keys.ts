/** Ed25519 public keys (RFC 8032) as people and programs send them, in the one form in which verifiers hold them. */
import { createPublicKey } from 'node:crypto'

const P = 2n ** 255n - 19n
/** Of the curve -x² + y² = 1 + d x² y². */
const D = mod(-121665n * power(121666n, P - 2n))

/** What is wrong with it, for a person. It never repeats what was sent: that may be a private key. */
export class PublicKeyError extends Error {
  override readonly name = 'PublicKeyError'
}

/**
 * @param text 32 bytes in base64, `x` of a JSON Web Key (RFC 8037), or a public key in PEM (RFC 8410)
 * @returns the 32 bytes, base64 with padding
 * @throws PublicKeyError
 */
export function parsePublicKey(text: string): string {
  const trimmed = text.trim()
  if (/PRIVATE KEY-----/.test(trimmed))
    throw new PublicKeyError('is a private key: it never leaves the client. Make another pair, and send the public half')
  const bytes = trimmed.startsWith('-----BEGIN ') ? fromPem(trimmed) : fromBase64(trimmed)
  if (!isUsablePoint(bytes)) throw new PublicKeyError('is no point of the curve that a key pair could have')
  return bytes.toString('base64')
}

function fromPem(text: string): Buffer {
  const no = 'must be the public half of an Ed25519 pair: BEGIN PUBLIC KEY'
  if (!text.startsWith('-----BEGIN PUBLIC KEY-----')) throw new PublicKeyError(no)
  let key: ReturnType<typeof createPublicKey>
  try {
    key = createPublicKey(text)
  } catch {
    throw new PublicKeyError(no)
  }
  if (key.asymmetricKeyType !== 'ed25519')
    throw new PublicKeyError(`must be an Ed25519 key; this one is ${key.asymmetricKeyType}`)
  return Buffer.from(key.export({ format: 'jwk' }).x ?? '', 'base64url')
}

function fromBase64(text: string): Buffer {
  const base64 = /^[A-Za-z0-9+/]{43}=$/.test(text)
  const bytes = base64 || /^[A-Za-z0-9_-]{43}$/.test(text) ? Buffer.from(text, 'base64') : undefined
  // The last digit of 43 holds two bits that stand for nothing.
  if (bytes?.toString(base64 ? 'base64' : 'base64url') === text) return bytes
  throw new PublicKeyError('must be 32 bytes in base64, the x of a JSON Web Key, or a public key in PEM')
}

/** On the curve, in its only encoding, and not of small order: with such a key a signature could fit every message. */
function isUsablePoint(bytes: Buffer): boolean {
  const encoded = BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`)
  const y = encoded & (2n ** 255n - 1n)
  if (y >= P) return false
  const y2 = mod(y * y)
  const x2 = mod((y2 - 1n) * power(mod(D * y2 + 1n), P - 2n))
  if (x2 !== 0n && power(x2, (P - 1n) / 2n) !== 1n) return false
  // The orders 1, 2, 4 have x or y 0. Doubled, those of order 8 have y 0: y² = -x².
  return x2 !== 0n && y !== 0n && mod(x2 + y2) !== 0n
}

function mod(a: bigint): bigint {
  return ((a % P) + P) % P
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  for (let b = mod(base), e = exponent; e > 0n; e >>= 1n, b = mod(b * b)) if (e & 1n) result = mod(result * b)
  return result
}
