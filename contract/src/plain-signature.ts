/**
 * The plain way to sign a request, for programs that can not do RFC 9421; HMAC keys alone. Header fields `X-Key-Id`, `X-Timestamp` (ms since
 * the epoch), `X-Nonce`, `X-Signature` and, where requests are numbered, `X-Sequence`.
 */
import { createHash, createHmac } from 'node:crypto'

export interface PlainRequest {
  /** ms since the epoch, in decimal digits, as it is sent. */
  readonly timestamp: string
  readonly nonce: string
  /** In capitals. */
  readonly method: string
  /** With the query, as it stands in the request line. */
  readonly path: string
  /** Of the body, in lower case hexadecimal; of no bytes where there is none. */
  readonly bodySha256: string
  /** As it is sent; absent where it is not. */
  readonly sequence?: string | undefined
}

export const bodySha256 = (body: Uint8Array): string => createHash('sha256').update(body).digest('hex')

/** What is signed: five lines, or six, without a line end after the last. */
export function plainCanonical({ timestamp, nonce, method, path, bodySha256: digest, sequence }: PlainRequest): string {
  const lines = `${timestamp}\n${nonce}\n${method}\n${path}\n${digest}`
  return sequence === undefined ? lines : `${lines}\n${sequence}`
}

/** The value of `X-Signature`: HMAC-SHA-256 in lower case hexadecimal. The key is the token's UTF-8 bytes, all of it. */
export const signPlainly = (token: string, request: PlainRequest): string =>
  createHmac('sha256', token).update(plainCanonical(request)).digest('hex')
