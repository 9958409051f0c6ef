import { createHmac, hkdfSync } from 'node:crypto'
import { bytesToBase62, createSealingKey, KEK_BYTES, type Sealed } from '@keyturn/contract'

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
  return {
    ...createSealingKey(kek),
    derive(purpose: string, id: string): string {
      const key = Buffer.from(hkdfSync('sha256', kek, '', `keyturn/${purpose}`, KEK_BYTES))
      return bytesToBase62(createHmac('sha256', key).update(id).digest(), 43)
    },
  }
}
