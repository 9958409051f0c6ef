import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { bytesToBase62 } from '@keyturn/contract'

/** A secret under the key-encryption key: AES-256-GCM (NIST SP 800-38D), the tag at the ciphertext's end. */
export interface Sealed {
  readonly kekId: string
  readonly nonce: Buffer
  readonly ciphertext: Buffer
}

export interface Sealer {
  /** `aad` binds the secret to what it belongs to: it opens with the same alone. */
  seal(plaintext: string, aad: string): Sealed
  open(sealed: Sealed, aad: string): string
  /** A secret of 43 base62 characters that is derived anew whenever it is needed, and stored nowhere. */
  derive(purpose: string, id: string): string
}

const NONCE_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32

/** @param kek the key-encryption key, 32 bytes */
export function createSealer(kek: Buffer): Sealer {
  if (kek.length !== KEY_BYTES) throw new RangeError('a key-encryption key has 32 bytes')
  const kekId = createHash('sha256').update('keyturn-kek').update(kek).digest('hex').slice(0, 8)
  const sealingKey = Buffer.from(hkdfSync('sha256', kek, '', 'keyturn/seal', KEY_BYTES))
  return {
    seal(plaintext, aad) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', sealingKey, nonce).setAAD(Buffer.from(aad, 'utf8'))
      const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final(), cipher.getAuthTag()])
      return { kekId, nonce, ciphertext }
    },
    open(sealed, aad) {
      if (sealed.kekId !== kekId)
        throw new Error(`sealed under key-encryption key ${sealed.kekId}, but this process holds ${kekId}`)
      const decipher = createDecipheriv('aes-256-gcm', sealingKey, sealed.nonce)
        .setAAD(Buffer.from(aad, 'utf8'))
        .setAuthTag(sealed.ciphertext.subarray(-TAG_BYTES))
      return Buffer.concat([decipher.update(sealed.ciphertext.subarray(0, -TAG_BYTES)), decipher.final()]).toString('utf8')
    },
    derive(purpose, id) {
      const key = Buffer.from(hkdfSync('sha256', kek, '', `keyturn/${purpose}`, KEY_BYTES))
      return bytesToBase62(createHmac('sha256', key).update(id).digest(), 43)
    },
  }
}
