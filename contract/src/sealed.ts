/** Secrets under a key-encryption key: AES-256-GCM (NIST SP 800-38D), the tag at the ciphertext's end. */
import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto'
import { KEK_BYTES } from './kek.ts'

export interface Sealed {
  readonly kekId: string
  readonly nonce: Buffer
  readonly ciphertext: Buffer
}

export interface SealingKey {
  /** The first 8 hexadecimal digits of a hash of it: names it, and tells nothing of it. */
  readonly kekId: string
  /** `aad` binds the secret to what it belongs to: it opens with the same alone. */
  seal(plaintext: string, aad: string): Sealed
  /** @throws Error when anything of it was changed */
  open(sealed: Pick<Sealed, 'nonce' | 'ciphertext'>, aad: string): string
}

const NONCE_BYTES = 12
const TAG_BYTES = 16

/** @param kek the key-encryption key, 32 bytes */
export function createSealingKey(kek: Buffer): SealingKey {
  if (kek.length !== KEK_BYTES) throw new RangeError(`a key-encryption key has ${KEK_BYTES} bytes`)
  const kekId = createHash('sha256').update('keyturn-kek').update(kek).digest('hex').slice(0, 8)
  const key = Buffer.from(hkdfSync('sha256', kek, '', 'keyturn/seal', KEK_BYTES))
  return {
    kekId,
    seal(plaintext, aad) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(aad, 'utf8'))
      return { kekId, nonce, ciphertext: Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final(), cipher.getAuthTag()]) }
    },
    open({ nonce, ciphertext }, aad) {
      const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
        .setAAD(Buffer.from(aad, 'utf8'))
        .setAuthTag(ciphertext.subarray(-TAG_BYTES))
      return Buffer.concat([decipher.update(ciphertext.subarray(0, -TAG_BYTES)), decipher.final()]).toString('utf8')
    },
  }
}
