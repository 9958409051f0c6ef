/** Whether a report is from whom it says: the signatures of GitHub and GitGuardian, over the body as it came. */
import { createHmac, timingSafeEqual, verify } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import type { GithubKeys } from './github-keys.ts'
import { ApiError } from './problems.ts'

const header = (request: FastifyRequest, name: string): string | undefined => {
  const value = request.headers[name]
  return typeof value === 'string' && value !== '' ? value : undefined
}

/**
 * GitHub: ECDSA on P-256 over the SHA-256 of the body, DER in base64, under the key that the identifier names.
 * @throws ApiError signature-missing, signing-key-unknown, signing-key-retired, signature-invalid
 */
export async function checkGithub(request: FastifyRequest, body: Buffer, keys: GithubKeys): Promise<void> {
  const identifier = header(request, 'github-public-key-identifier')
  const signature = header(request, 'github-public-key-signature')
  if (identifier === undefined || signature === undefined)
    throw new ApiError('signature-missing', 'Send Github-Public-Key-Identifier and Github-Public-Key-Signature.')
  const found = await keys.find(identifier)
  if (found === undefined)
    throw new ApiError('signing-key-unknown', "The identifier is not in GitHub's list of public keys as it is known here.")
  if (!found.current) throw new ApiError('signing-key-retired', "Sign with the key that is current in GitHub's list.")
  if (!verify('sha256', body, found.key, Buffer.from(signature, 'base64')))
    throw new ApiError('signature-invalid', 'The body was altered on the way, or signed with another key.')
}

/** So far the clocks of both sides may be apart, and the report on its way. */
const TOLERANCE_MS = 60_000

/**
 * GitGuardian: `Gitguardian-Signature: sha256=<hex>`, HMAC-SHA-256 of the body under `Timestamp` and signature token, one after the
 * other; `Timestamp` in seconds of the epoch.
 * @throws ApiError signature-missing, timestamp-stale, signature-invalid
 */
export function checkGitguardian(request: FastifyRequest, body: Buffer, token: string, now: Date): void {
  const timestamp = header(request, 'timestamp')
  const signature = /^sha256=([0-9a-f]{64})$/i.exec(header(request, 'gitguardian-signature') ?? '')?.[1]
  if (timestamp === undefined || signature === undefined)
    throw new ApiError('signature-missing', 'Send Timestamp and Gitguardian-Signature: sha256=<hex>.')
  const sentAt = /^\d{1,12}([.]\d{1,9})?$/.test(timestamp) ? Number(timestamp) * 1_000 : Number.NaN
  // The signature first: who can not sign learns nothing of our clock.
  const expected = createHmac('sha256', timestamp + token)
    .update(body)
    .digest()
  if (!timingSafeEqual(expected, Buffer.from(signature, 'hex')))
    throw new ApiError('signature-invalid', 'The body was altered on the way, or signed with another token.')
  if (!(Math.abs(now.getTime() - sentAt) <= TOLERANCE_MS))
    throw new ApiError('timestamp-stale', 'Timestamp must be the seconds since 1970, within a minute of now. Send it anew.')
}
