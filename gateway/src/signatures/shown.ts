/** In which way a request is signed, if it is. */
import type { RequestInfo } from '../request-info.ts'

/** `both`: also when a token is shown beside a signature. */
export type Way = 'message' | 'plain' | 'both' | 'none'

/**
 * `Signature-Input` and `X-Key-Id` say it. The other fields of a signature alone are not ours where a token is shown: an API may ask for such of its
 * own. Where none is, somebody has left something out.
 */
export function wayOf(headers: RequestInfo['headers']): Way {
  const token = headers['authorization'] !== undefined || headers['x-api-key'] !== undefined
  const message = headers['signature-input'] !== undefined
  const plain = headers['x-key-id'] !== undefined
  if (message || plain) return token || (message && plain) ? 'both' : message ? 'message' : 'plain'
  if (token) return 'none'
  return headers['signature'] !== undefined ? 'message' : headers['x-signature'] !== undefined ? 'plain' : 'none'
}
