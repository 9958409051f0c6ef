import { generateKeyPairSync } from 'node:crypto'
import { shownSha256, type Verifier } from '@keyturn/contract'

/** The hash of a key whose token is shown. */
export function sha256Of({ verifier }: { verifier: Verifier }): string {
  const sha256 = shownSha256(verifier)
  if (sha256 === undefined) throw new Error(`a ${verifier.kind} key shows no token`)
  return sha256
}

/** A public key as verifiers hold it. */
export const newPublicKey = (): string =>
  Buffer.from(generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' }).x ?? '', 'base64url').toString('base64')
