/** The closed list of error codes. Errors over HTTP are problem documents (RFC 9457) that carry one of them as `code`. */
export const PROBLEMS = {
  // control plane
  'invalid-request': { status: 400, title: 'The request does not fit the schema' },
  'not-json': { status: 400, title: 'The body is not JSON' },
  'invalid-duration': { status: 400, title: 'Not a usable duration' },
  'invalid-policy': { status: 400, title: 'The policy can not be used' },
  'empty-selector': { status: 400, title: 'The selector selects everything' },
  'operator-token-required': { status: 401, title: 'An operator token is required' },
  'reporter-token-required': { status: 401, title: 'A reporter or operator token is required' },
  'signature-missing': { status: 401, title: 'The report is not signed' },
  'signing-key-unknown': { status: 401, title: 'There is no such signing key' },
  'signing-key-retired': { status: 403, title: 'The signing key is no longer in use' },
  'signature-invalid': { status: 403, title: 'The signature does not fit the report' },
  'timestamp-stale': { status: 403, title: 'The report was not signed just now' },
  'gateway-token-required': { status: 401, title: "The gateways' token is required" },
  'not-found': { status: 404, title: 'There is no such thing' },
  'method-not-allowed': { status: 405, title: 'This path has no such method' },
  'unknown-client': { status: 404, title: 'There is no such client' },
  'unknown-credential': { status: 404, title: 'There is no such credential' },
  'unknown-rotation': { status: 404, title: 'There is no such rotation' },
  'unknown-policy': { status: 404, title: 'There is no such policy' },
  'unknown-rollover': { status: 404, title: 'There is no such rollover' },
  'unknown-gateway': { status: 404, title: 'There is no such gateway' },
  'unknown-leak': { status: 404, title: 'There is no such leak' },
  'unknown-claim': { status: 404, title: 'There is no such claim' },
  'wrong-stage': { status: 409, title: 'Not at this stage of the rotation' },
  'new-key-required': { status: 403, title: 'Only the new key can say that' },
  'not-switched-over': { status: 409, title: 'The client has not switched over' },
  'count-mismatch': { status: 409, title: 'The selector selects another number of credentials' },
  'name-taken': { status: 409, title: 'The client already has a credential of this name there' },
  'public-key-taken': { status: 409, title: 'Another key has this public key' },
  'import-refused': { status: 409, title: 'The keys can not be imported' },
  'claim-used': { status: 410, title: 'This claim has been used' },
  'claim-expired': { status: 410, title: 'This claim has expired' },
  'no-successor': { status: 404, title: 'This key has no successor' },
  'successor-refused': { status: 403, title: 'The successor is not handed out for the old key' },
  'recipient-refused': { status: 403, title: 'The secret goes to another recipient' },
  'delivered-elsewhere': { status: 409, title: "The key is written into the client's own store" },
  'scope-exceeded': { status: 403, title: 'The key does not have this scope' },
  'illegal-transition': { status: 409, title: 'The key can not change to that state' },
  'too-large': { status: 413, title: 'The request is too large' },
  'unsupported-media-type': { status: 415, title: 'This media type is not taken here' },
  'too-many-guesses': { status: 429, title: 'Too many claims or keys that are none' },
  'not-everywhere-yet': { status: 503, title: 'Not every gateway has the key yet' },
  'registry-restored': { status: 503, title: 'The registry is older than the keys topic' },
  'dependency-unavailable': { status: 503, title: 'A server that Keyturn needs is not there' },
  'internal-error': { status: 500, title: 'Keyturn failed' },
  // request path
  'invalid-key': { status: 401, title: 'The API key is not accepted' },
  'missing-key': { status: 401, title: 'An API key is required' },
  'signature-malformed': { status: 401, title: 'The signature is not one that can be checked' },
  'digest-mismatch': { status: 401, title: 'The body is not the one that was signed' },
  'request-stale': { status: 401, title: 'The request was not signed just now' },
  'request-replayed': { status: 401, title: 'The request has been sent before' },
  'request-out-of-order': { status: 401, title: 'The sequence number of the request is not next' },
  'body-too-slow': { status: 408, title: 'The body did not arrive in time' },
  'missing-scope': { status: 403, title: 'The API key does not have the scope for this' },
  'address-not-allowed': { status: 403, title: 'The API key can not be used from this address' },
  'method-not-allowed-for-key': { status: 403, title: 'The API key can not be used with this method' },
  'request-too-slow': { status: 408, title: 'The request did not come in time' },
  'gateway-undecided': { status: 503, title: 'The gateway can not decide at the moment' },
  'upstream-unavailable': { status: 502, title: 'The API behind the gateway does not answer' },
} as const

export type ProblemCode = keyof typeof PROBLEMS

export interface ProblemDocument {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly code: ProblemCode
  readonly detail?: string
  readonly errors?: readonly { readonly path: string; readonly message: string }[]
}

export const PROBLEM_MEDIA_TYPE = 'application/problem+json'

/** A problem document of a code. `detail` is for a person: what is wrong here, and what to do. It never holds a secret. */
export const problem = (code: ProblemCode, detail?: string, errors?: ProblemDocument['errors']): ProblemDocument => ({
  type: `urn:keyturn:problem:${code}`,
  title: PROBLEMS[code].title,
  status: PROBLEMS[code].status,
  code,
  ...(detail === undefined ? {} : { detail }),
  ...(errors === undefined ? {} : { errors }),
})
