/** The fallback: a gateway that does not hear from Kafka asks the control plane which keys have ended meanwhile. */
import Type from 'typebox'
import { KeyRecord } from './key-record.ts'
import type { KeyState } from './key-state.ts'

export const FALLBACK_PATH = '/v1/fallback/keys'
/** Of the answer: a JSON Web Signature in compact form, EdDSA (RFC 7515, RFC 8037). */
export const FALLBACK_TYPE = 'keyturn-fallback+jwt'
export const FALLBACK_ISSUER = 'keyturn'

/** The fallback takes keys away and never brings one: whoever could forge it could not make a key accepted. */
export const ENDED_STATES = ['suspended', 'deactivated', 'compromised', 'destroyed'] as const satisfies readonly KeyState[]
export const hasEnded = (state: KeyState): boolean => (ENDED_STATES as readonly KeyState[]).includes(state)

/** What is signed. `aud` and `nonce` are the asking gateway's, so that an answer serves one question of one gateway. */
export const FallbackAnswer = Type.Object({
  aud: Type.String(),
  nonce: Type.String(),
  keys: Type.Array(KeyRecord, { maxItems: 1_000 }),
  next: Type.String({
    maxLength: 64,
    description: 'where the log of changes was read to: asked with next time, it says what is applied',
  }),
  more: Type.Boolean({ description: 'there are more already' }),
})
export type FallbackAnswer = Type.Static<typeof FallbackAnswer>
