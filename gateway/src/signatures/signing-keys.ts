/**
 * What signatures are checked with, ready for use: sealed signing keys are opened when they are first asked for, once per revision, and go with the
 * cache's entry. A signature of an unknown key takes the same work as that of a known one.
 */
import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, verify } from 'node:crypto'
import { createSealingKey, type KeyId, type SealingKey, verifierAad } from '@keyturn/contract'
import type { KeyCache, SigningVerifier } from '../key-cache.ts'
import { createThrottle, type Log } from '../log.ts'
import { type Check, createHmacCheck } from './hmac.ts'
import type { SigningKind } from './signed-request.ts'

/** `unopened`: the key can not be asked, because none of our key-encryption keys opens it. That is our fault, and not the caller's. */
export type Signed = 'right' | 'wrong' | 'unopened'

export interface SigningKeysOptions {
  readonly cache: Pick<KeyCache, 'get'>
  /** Key-encryption keys, 32 bytes each. */
  readonly keks: readonly Buffer[]
  readonly log: Log
}

const createEd25519Check =
  (key: KeyObject): Check =>
  (text, signature) =>
    verify(null, Buffer.from(text, 'latin1'), key, signature)

/** Of nobody. */
const STAND_INS: Readonly<Record<SigningKind, Check>> = {
  'hmac-sha256': createHmacCheck(randomBytes(72)),
  ed25519: createEd25519Check(generateKeyPairSync('ed25519').publicKey),
}

export class SigningKeys {
  readonly #options: SigningKeysOptions
  readonly #sealing: readonly SealingKey[]
  readonly #ready = new WeakMap<SigningVerifier, Check | 'unopened' | 'none'>()
  readonly #throttle = createThrottle()
  #opened = 0
  #unopened = 0

  constructor(options: SigningKeysOptions) {
    this.#options = options
    this.#sealing = options.keks.map(createSealingKey)
  }

  /** How often a sealed key was opened, and how often one could not be. */
  get counts(): { readonly opened: number; readonly unopened: number } {
    return { opened: this.#opened, unopened: this.#unopened }
  }

  /**
   * @param base ASCII characters alone
   * @param signature as long as one of this kind is
   */
  check(keyId: string, kind: SigningKind, base: string, signature: Buffer): Signed {
    const verifier = this.#options.cache.get(keyId as KeyId)?.signing
    const key = verifier?.kind === kind ? this.#keyOf(keyId, verifier) : 'none'
    if (key === 'unopened') {
      this.#unopened += 1
      return 'unopened'
    }
    const right = (key === 'none' ? STAND_INS[kind] : key)(base, signature)
    return right && key !== 'none' ? 'right' : 'wrong'
  }

  #keyOf(keyId: string, verifier: SigningVerifier): Check | 'unopened' | 'none' {
    const known = this.#ready.get(verifier)
    if (known !== undefined) return known
    const key = verifier.kind === 'ed25519' ? publicKeyOf(verifier.publicKey) : this.#open(keyId, verifier)
    this.#ready.set(verifier, key)
    return key
  }

  #open(keyId: string, { kekId, nonce, ciphertext, revision }: Extract<SigningVerifier, { kind: 'hmac-sha256' }>) {
    const sealing = this.#sealing.find((each) => each.kekId === kekId)
    try {
      if (sealing !== undefined) {
        const sealed = { nonce: Buffer.from(nonce, 'base64'), ciphertext: Buffer.from(ciphertext, 'base64') }
        const key = createHmacCheck(Buffer.from(sealing.open(sealed, verifierAad(keyId, revision)), 'utf8'))
        this.#opened += 1
        return key
      }
    } catch {
      // What it says is of no use; that it did not open is.
    }
    this.#throttle('unopened', (more) =>
      this.#options.log.error(
        { keyId, kekId, have: this.#sealing.map((each) => each.kekId), more },
        sealing === undefined
          ? 'UNOPENED: a signing key is sealed under a key-encryption key that is not in KEYTURN_KEK; its requests get 503'
          : 'UNOPENED: a signing key does not open, something of it was changed; its requests get 503',
      ),
    )
    return 'unopened' as const
  }
}

/** `none` until the client has enrolled it, and where it is no point of the curve. */
function publicKeyOf(base64: string | undefined): Check | 'none' {
  if (base64 === undefined) return 'none'
  try {
    const x = Buffer.from(base64, 'base64').toString('base64url')
    return createEd25519Check(createPublicKey({ format: 'jwk', key: { kty: 'OKP', crv: 'Ed25519', x } }))
  } catch {
    return 'none'
  }
}
