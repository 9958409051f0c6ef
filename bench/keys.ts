/** Keys to measure with: of the real format and sizes, made fast. Their ids are counted, their secrets random. */
import { randomBytes, randomFillSync } from 'node:crypto'
import { type ClientId, type CredentialId, type KeyId, type KeyRecord, tokenChecksum, tokenSha256 } from '@keyturn/contract'

const SCOPES = [['orders:read'], ['orders:read', 'orders:write'], ['trade:read', 'trade:write'], ['reports:read']]
const SECRET_LENGTH = 43
const SECRET_BYTES = 22
const POOL = 1_024
const pool = randomBytes(SECRET_BYTES * POOL)

/** Of the one key that session tokens are signed with. */
export const SESSION_KID = 'k'.repeat(43)

const id = (i: number): string => i.toString(36).padStart(16, '0')

/** A well-formed token. `newToken` would take ten times as long, for a secret in base62 instead of hexadecimal digits. */
export function tokenOf(i: number): string {
  const place = (i % POOL) * SECRET_BYTES
  if (place === 0) randomFillSync(pool)
  const secret = pool.toString('hex', place, place + SECRET_BYTES).slice(0, SECRET_LENGTH)
  const body = `kt_prod_${id(i)}_${secret}`
  return body + tokenChecksum(body)
}

/** What a gateway learns of a key: a client of its own, one of a few sets of scopes, one in ten with an expiry. */
export const recordOf = (i: number, token: string): KeyRecord => ({
  keyId: id(i) as KeyId,
  credentialId: `crd_${id(i)}` as CredentialId,
  clientId: `cli_${id(i)}` as ClientId,
  environment: 'prod',
  scopes: [...(SCOPES[i % SCOPES.length] ?? [])],
  version: 1,
  state: 'active',
  revision: 1,
  verifier: { kind: 'bearer', sha256: tokenSha256(token) },
  notBefore: new Date(Date.UTC(2026, 0, 1) + i).toISOString(),
  ...(i % 10 === 0 ? { expiresAt: new Date(Date.UTC(2036, 0, 1) + i).toISOString() } : {}),
})
