/** Word from outside that a token is exposed. */
import Type from 'typebox'
import { Timestamp } from './key-record.ts'

export const TOKEN_SHA256_HEX_PATTERN = '^[0-9a-f]{64}$'

const Sha256 = Type.String({
  pattern: '^([0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=)$',
  description: 'SHA-256 of the whole token (UTF-8): hex, or base64 with padding like a verifier',
})
const Token = Type.String({
  minLength: 1,
  maxLength: 1_000,
  description: 'the token itself; it is hashed on arrival and never stored',
})

/** Who found it, where, and when. */
const sighting = {
  source: Type.String({ minLength: 1, maxLength: 100, pattern: '\\S', description: 'who found it: github, a scanner, a person' }),
  url: Type.Optional(Type.String({ maxLength: 2_000, description: 'where it was found' })),
  at: Type.Optional(Timestamp),
}

/** A leak report names the token by its hash; or brings it, where whoever found it can't hash. Not both. */
export const LeakReport = Type.Union([
  Type.Object({ tokenSha256: Sha256, token: Type.Optional(Type.Never()), ...sighting }),
  Type.Object({ token: Token, tokenSha256: Type.Optional(Type.Never()), ...sighting }),
])
export type LeakReport = Type.Static<typeof LeakReport>

/** The same with both fields optional: for readers who say themselves what is missing. */
export const LeakReportFields = { tokenSha256: Type.Optional(Sha256), token: Type.Optional(Token), ...sighting }

/** A SHA-256 in lower-case hex, whichever of the two forms it came in. */
export const sha256ToHex = (hash: string): string =>
  hash.length === 64 ? hash.toLowerCase() : Buffer.from(hash, 'base64').toString('hex')
