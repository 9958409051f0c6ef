/** How a client shows one of its keys to the control plane: as a bearer, or by signing the request with it. */
import { tokenSha256 } from '@keyturn/contract'
import type { FastifyRequest } from 'fastify'
import type { Shown } from '../registry/shown-keys.ts'
import { bearer } from './operator.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** The body as it was sent, where the request is signed. */
    signedBody: string | undefined
  }
}

/**
 * @param what which key it is to be, for people: `the old key`
 * @throws ApiError
 */
export async function shownKey(request: FastifyRequest, { checkSignature }: ApiDeps, what: string): Promise<Shown> {
  const { headers, method, url, signedBody } = request
  const signed = headers['signature-input'] !== undefined
  const token = bearer(request)
  if (signed && headers.authorization !== undefined)
    throw new ApiError('invalid-key', 'A key that signs requests is not sent: leave Authorization out.')
  if (token !== undefined) return { tokenSha256: tokenSha256(token) }
  if (!signed) throw new ApiError('missing-key', `Send ${what} as "Authorization: Bearer <key>", or sign the request with it.`)
  const checked = await checkSignature({ method, url, headers, body: signedBody })
  if ('keyId' in checked) return checked
  throw new ApiError(checked.code, checked.detail)
}
