/** What a new key is checked with, by its credential's kind. */
import {
  type Environment,
  type HmacVerifier,
  type KeyId,
  type KeyKind,
  type KeyState,
  newToken,
  type Sealed,
  tokenSha256,
  type Verifier,
  verifierAad,
} from '@keyturn/contract'
import { hmslHash } from './hmsl.ts'
import type { Sealer } from './sealing.ts'

export interface NewVerifier {
  readonly verifier: Verifier
  readonly state: Extract<KeyState, 'pre-activation' | 'active'>
  /** What the client is handed; nothing where its secret never leaves it. */
  readonly token?: string
  /** Of a token that is never shown: leak reports name it by that. */
  readonly tokenSha256?: string
  readonly hmslHash?: string
}

export async function newVerifier(
  kind: KeyKind,
  input: { keyId: KeyId; brand: string; environment: Environment; sealer: Sealer; publicKey?: string | undefined },
): Promise<NewVerifier> {
  const { keyId, brand, environment, sealer, publicKey } = input
  if (kind === 'ed25519') {
    return publicKey === undefined
      ? { verifier: { kind }, state: 'pre-activation' }
      : { verifier: { kind, publicKey }, state: 'active' }
  }
  const token = newToken({ brand, environment, keyId })
  const made = { token, state: 'active', hmslHash: await hmslHash(token) } as const
  if (kind === 'bearer') return { ...made, verifier: { kind, sha256: tokenSha256(token) } }
  return { ...made, verifier: sealToken(sealer, { keyId, token, revision: 1 }), tokenSha256: tokenSha256(token) }
}

/** @param input.revision of the key, from which on it has this verifier */
function sealToken(sealer: Sealer, { keyId, token, revision }: { keyId: KeyId; token: string; revision: number }): HmacVerifier {
  const { kekId, nonce, ciphertext } = sealer.seal(token, verifierAad(keyId, revision))
  return { kind: 'hmac-sha256', kekId, nonce: nonce.toString('base64'), ciphertext: ciphertext.toString('base64'), revision }
}

/** The same token under the sealer's first key-encryption key. */
export function resealToken(
  sealer: Sealer,
  { keyId, verifier, revision }: { keyId: KeyId; verifier: HmacVerifier; revision: number },
): HmacVerifier {
  const sealed: Sealed = {
    kekId: verifier.kekId,
    nonce: Buffer.from(verifier.nonce, 'base64'),
    ciphertext: Buffer.from(verifier.ciphertext, 'base64'),
  }
  return sealToken(sealer, { keyId, revision, token: sealer.open(sealed, verifierAad(keyId, verifier.revision)) })
}
