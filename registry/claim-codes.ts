import { createHash } from 'node:crypto'
import type { Sealer } from './sealing.ts'

/** The code that hands a key out, once. Derived, so that a reminder repeats the same link and nothing needs to be stored but a hash. */
export const claimCode = (sealer: Sealer, claimId: string): string => sealer.derive('claim', claimId)

export const sha256Hex = (text: string): string => createHash('sha256').update(text).digest('hex')

export const claimCodeSha256 = (sealer: Sealer, claimId: string): string => sha256Hex(claimCode(sealer, claimId))
