/** The signature in plain header fields, as the contract describes it (`contract/src/plain-signature.ts`). */
import { bodySha256, plainCanonical } from '@keyturn/contract'
import { onlyValue } from './fields.ts'
import { Flaw } from './flaw.ts'
import type { Target } from './signature-base.ts'
import { LONGEST_NONCE, parseSequence, type SignedRequest } from './signed-request.ts'

const SIGNATURE = /^[0-9a-fA-F]{64}$/
const TIMESTAMP = /^[1-9][0-9]{11,14}$/
const NONCE = /^[\x21-\x7e]+$/

export function readPlainSignature({ headers, method, url }: Target): SignedRequest | Flaw {
  const values: Record<string, string> = {}
  for (const name of ['X-Key-Id', 'X-Timestamp', 'X-Nonce', 'X-Signature']) {
    const value = onlyValue(headers, name.toLowerCase())
    if (value instanceof Flaw) return value
    if (value === undefined || value === '') return new Flaw(`${name} is missing`)
    values[name] = value
  }
  const { 'X-Key-Id': keyId = '', 'X-Timestamp': timestamp = '', 'X-Nonce': nonce = '', 'X-Signature': hex = '' } = values
  const sequence = onlyValue(headers, 'x-sequence')
  if (sequence instanceof Flaw) return sequence
  if (!TIMESTAMP.test(timestamp)) return new Flaw('X-Timestamp is milliseconds since the epoch, in digits')
  if (nonce.length > LONGEST_NONCE || !NONCE.test(nonce))
    return new Flaw(`X-Nonce has 1 to ${LONGEST_NONCE} visible ASCII characters`)
  if (!SIGNATURE.test(hex)) return new Flaw('X-Signature is an HMAC-SHA-256 in hexadecimal: 64 digits')
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
