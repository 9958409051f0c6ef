/**
 * RFC 9421: what a signature has to cover, and have, to count. `created` and `nonce`; `@method`; where it goes, as `@target-uri` or as `@authority`, `@path`
 * and `@query`; `content-digest` when there is a body, `x-sequence` when there is one.
 */
import { parseContentDigest } from './content-digest.ts'
import { fieldValue, onlyValue } from './fields.ts'
import { Flaw } from './flaw.ts'
import { signatureBase, type Target } from './signature-base.ts'
import { parseSignature, parseSignatureInput } from './signature-input.ts'
import { LONGEST_NONCE, parseSequence, type SignedRequest, type SigningKind } from './signed-request.ts'

const [METHOD, TARGET, AUTHORITY, PATH, QUERY, DIGEST, SEQUENCE] = [1, 2, 4, 8, 16, 32, 64]
const PARTS = AUTHORITY | PATH | QUERY
const COVERS: Readonly<Record<string, number>> = Object.assign(Object.create(null), {
  '@method': METHOD,
  '@target-uri': TARGET,
  '@authority': AUTHORITY,
  '@path': PATH,
  '@query': QUERY,
  'content-digest': DIGEST,
  'x-sequence': SEQUENCE,
})
const kindOf = (bytes: number): SigningKind | undefined => (bytes === 32 ? 'hmac-sha256' : bytes === 64 ? 'ed25519' : undefined)

/** @param hasBody whether there is one, as far as the head of the request says */
export function readMessageSignature(target: Target, hasBody: boolean): SignedRequest | Flaw {
  const { headers } = target
  const inputField = fieldValue(headers, 'signature-input')
  if (inputField === undefined) return new Flaw('Signature-Input is missing')
  const signatureField = fieldValue(headers, 'signature')
  if (signatureField === undefined) return new Flaw('Signature is missing')
  const input = parseSignatureInput(inputField)
  if (input instanceof Flaw) return input
  const signature = parseSignature(signatureField, input.label)
  if (signature instanceof Flaw) return signature

  const { components, keyid, nonce, alg, created, expires } = input
  if (keyid === undefined) return new Flaw('The parameter keyid is missing: the key id')
  if (created === undefined) return new Flaw('The parameter created is missing')
  if (nonce === undefined) return new Flaw('The parameter nonce is missing: a new one for each request')
  if (nonce === '' || nonce.length > LONGEST_NONCE) return new Flaw(`A nonce has 1 to ${LONGEST_NONCE} characters`)
  if (alg !== undefined && alg !== 'hmac-sha256' && alg !== 'ed25519')
    return new Flaw('The parameter alg is neither hmac-sha256 nor ed25519')
  const kind = kindOf(signature.length)
  if (kind === undefined) return new Flaw('The signature has neither the 32 bytes of hmac-sha256 nor the 64 of ed25519')
  if (alg !== undefined && alg !== kind) return new Flaw(`The parameter alg says ${alg}, the length of the signature ${kind}`)

  let covered = 0
  for (const name of components) covered |= COVERS[name] ?? 0
  if ((covered & METHOD) === 0) return new Flaw('Cover "@method"')
  if ((covered & TARGET) === 0 && (covered & PARTS) !== PARTS)
    return new Flaw('Cover "@target-uri", or "@authority", "@path" and "@query"')
  if (hasBody && (covered & DIGEST) === 0) return new Flaw('There is a body: cover "content-digest"')
  const numbered = onlyValue(headers, 'x-sequence')
  if (numbered instanceof Flaw) return numbered
  if (numbered !== undefined && (covered & SEQUENCE) === 0) return new Flaw('There is an X-Sequence: cover "x-sequence"')
  const sequence = numbered === undefined ? undefined : parseSequence(numbered)
  if (numbered !== undefined && sequence === undefined) return new Flaw('X-Sequence is a whole number from 0 up')

  const base = signatureBase(input, target)
  if (base instanceof Flaw) return base
  const digests = (covered & DIGEST) !== 0 ? parseContentDigest(fieldValue(headers, 'content-digest') ?? '') : undefined
  if (digests instanceof Flaw) return digests
  return { keyId: keyid, kind, signature, nonce, created, expires, sequence, base, digests }
}
