import { createHash } from 'node:crypto'
import type { Sealer } from './sealing.ts'

/** The code that hands a key out, once. Derived, so that a reminder repeats the same link and nothing needs to be stored but a hash. */
export const claimCode = (sealer: Sealer, claimId: string): string => sealer.derive('claim', claimId)

export const sha256Hex = (text: string): string => createHash('sha256').update(text).digest('hex')

export const claimCodeSha256 = (sealer: Sealer, claimId: string): string => sha256Hex(claimCode(sealer, claimId))

/**
 * The code of a claim that was made before, maybe under another key-encryption key.
 * @throws Error when this process has none that it was made under
 */
export function claimCodeOf(sealer: Sealer, { claimId, codeSha256 }: { claimId: string; codeSha256: string }): string {
  const code = sealer.derivations('claim', claimId).find((derived) => sha256Hex(derived) === codeSha256)
  if (code === undefined) throw new Error(`the code of claim ${claimId} is of none of the key-encryption keys of this process`)
  return code
}
