/** The signature in plain header fields, as the contract describes it (`contract/src/plain-signature.ts`). */
import { bodySha256, plainCanonical } from '@keyturn/contract'
import { onlyValue } from './fields.ts'
import { Flaw } from './flaw.ts'
import { NOT_ASCII, type Target } from './signature-base.ts'
import { LONGEST_NONCE, parseSequence, type SignedRequest } from './signed-request.ts'

const SIGNATURE = /^[0-9a-fA-F]{64}$/
const TIMESTAMP = /^[1-9][0-9]{11,14}$/
const NONCE = /^[\x21-\x7e]+$/

export function readPlainSignature({ headers, method, url }: Target): SignedRequest | Flaw {
  const keyId = onlyValue(headers, 'x-key-id')
  if (typeof keyId !== 'string') return keyId ?? new Flaw('X-Key-Id is missing')
  const timestamp = onlyValue(headers, 'x-timestamp')
  if (typeof timestamp !== 'string') return timestamp ?? new Flaw('X-Timestamp is missing')
  const nonce = onlyValue(headers, 'x-nonce')
  if (typeof nonce !== 'string') return nonce ?? new Flaw('X-Nonce is missing')
  const hex = onlyValue(headers, 'x-signature')
  if (typeof hex !== 'string') return hex ?? new Flaw('X-Signature is missing')
  const sequence = onlyValue(headers, 'x-sequence')
  if (sequence instanceof Flaw) return sequence
  if (!TIMESTAMP.test(timestamp)) return new Flaw('X-Timestamp is milliseconds since the epoch, in digits')
  if (nonce.length > LONGEST_NONCE || !NONCE.test(nonce))
    return new Flaw(`X-Nonce has 1 to ${LONGEST_NONCE} visible ASCII characters`)
  if (!SIGNATURE.test(hex)) return new Flaw('X-Signature is an HMAC-SHA-256 in hexadecimal: 64 digits')
  if (NOT_ASCII.test(url)) return new Flaw('The path holds other than ASCII characters; encode them')
  const number = sequence === undefined ? undefined : parseSequence(sequence)
  if (sequence !== undefined && number === undefined) return new Flaw('X-Sequence is a whole number from 0 up')
  return {
    keyId,
    kind: 'hmac-sha256',
    signature: Buffer.from(hex, 'hex'),
    nonce,
    created: Math.floor(Number(timestamp) / 1_000),
    expires: undefined,
    sequence: number,
    base: (body) => plainCanonical({ timestamp, nonce, method, path: url, bodySha256: bodySha256(body), sequence }),
    digests: undefined,
  }
}
