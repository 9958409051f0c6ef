/** A signed request, whichever way it is signed, before anybody has looked for its key. */
import type { SIGNING_KINDS } from '@keyturn/contract'
import type { ContentDigest } from './content-digest.ts'

export type SigningKind = Exclude<(typeof SIGNING_KINDS)[number], 'bearer'>

export interface SignedRequest {
  readonly keyId: string
  /** As the signature's length says. That the key is of this kind is not known yet. */
  readonly kind: SigningKind
  readonly signature: Buffer
  readonly nonce: string
  /** Seconds since the epoch. */
  readonly created: number
  readonly expires: number | undefined
  readonly sequence: number | undefined
  /** What is signed. Of the body, where that is part of it. */
  readonly base: string | ((body: Buffer) => string)
  /** What the body has to fit, where that is told beside it. */
  readonly digests: readonly ContentDigest[] | undefined
}

/** Long enough for 256 bits in any alphabet, and no burden. */
export const LONGEST_NONCE = 128
const SEQUENCE = /^(0|[1-9][0-9]{0,15})$/

/** A whole number that can be counted with; nothing where it is none. */
export const parseSequence = (text: string): number | undefined =>
  SEQUENCE.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : undefined
