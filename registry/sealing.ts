import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { bytesToBase62 } from '@keyturn/contract'

/** A secret under the key-encryption key: AES-256-GCM (NIST SP 800-38D), the tag at the ciphertext's end. */
export interface Sealed {
  readonly kekId: string
  readonly nonce: Buffer
  readonly ciphertext: Buffer
}

export interface Sealer {
  /** Names of the key-encryption keys that this process has; the first one seals. */
  readonly kekIds: readonly [string, ...string[]]
  /** `aad` binds the secret to what it belongs to: it opens with the same alone. */
  seal(plaintext: string, aad: string): Sealed
  open(sealed: Sealed, aad: string): string
  /** A secret of 43 base62 characters that is derived anew whenever it is needed, and stored nowhere. */
  derive(purpose: string, id: string): string
  /** The same by each key-encryption key: what was handed out before a change is among them. */
  derivations(purpose: string, id: string): readonly string[]
}

const NONCE_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32

/**
 * @param kek the key-encryption key, 32 bytes
 * @param previous the one that is being replaced: what it has sealed still opens
 */
export function createSealer(kek: Buffer, previous?: Buffer): Sealer {
  const first = createKey(kek)
  const keys = previous === undefined ? [first] : [first, createKey(previous)]
  return {
    kekIds: [first.kekId, ...keys.slice(1).map(({ kekId }) => kekId)],
    seal: first.seal,
    open(sealed, aad) {
      const key = keys.find(({ kekId }) => kekId === sealed.kekId)
      if (key !== undefined) return key.open(sealed, aad)
      const held = keys.map(({ kekId }) => kekId).join(' and ')
      throw new Error(`sealed under key-encryption key ${sealed.kekId}, but this process holds ${held}`)
    },
    derive: first.derive,
    derivations: (purpose, id) => keys.map(({ derive }) => derive(purpose, id)),
  }
}

function createKey(kek: Buffer) {
  if (kek.length !== KEY_BYTES) throw new RangeError('a key-encryption key has 32 bytes')
  const kekId = createHash('sha256').update('keyturn-kek').update(kek).digest('hex').slice(0, 8)
  const sealingKey = Buffer.from(hkdfSync('sha256', kek, '', 'keyturn/seal', KEY_BYTES))
  return {
    kekId,
    seal(plaintext: string, aad: string): Sealed {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv('aes-256-gcm', sealingKey, nonce).setAAD(Buffer.from(aad, 'utf8'))
      const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final(), cipher.getAuthTag()])
      return { kekId, nonce, ciphertext }
    },
    open(sealed: Sealed, aad: string): string {
      const decipher = createDecipheriv('aes-256-gcm', sealingKey, sealed.nonce)
        .setAAD(Buffer.from(aad, 'utf8'))
        .setAuthTag(sealed.ciphertext.subarray(-TAG_BYTES))
      return Buffer.concat([decipher.update(sealed.ciphertext.subarray(0, -TAG_BYTES)), decipher.final()]).toString('utf8')
    },
    derive(purpose: string, id: string): string {
      const key = Buffer.from(hkdfSync('sha256', kek, '', `keyturn/${purpose}`, KEY_BYTES))
      return bytesToBase62(createHmac('sha256', key).update(id).digest(), 43)
    },
  }
}
