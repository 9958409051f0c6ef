/** A request's header fields, its address, and what is to be done with it. Refusals look all the same: they are no oracle. */
import { formatRotationNotice, HEADERS, type ProblemDocument, problem, type UsageOutcome } from '@keyturn/contract'
import type { Freshness } from './freshness.ts'
import type { KeyEntry } from './key-cache.ts'
import { cleanAddress, createUserAgentCleaner } from './sources.ts'
import type { Usage } from './usage.ts'
import type { Decision, Verify } from './verify.ts'

/** Field names in lower case; a field that came more than once as a list, as in Node's `headersDistinct`. */
export interface RequestInfo {
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  /** The caller's. */
  readonly address: string | undefined
}

/** For metrics. `ambiguous`: more than one key was shown. */
export type RequestOutcome = Exclude<UsageOutcome, 'refused-upstream'> | 'unknown' | 'missing' | 'ambiguous'
export const REQUEST_OUTCOMES: readonly RequestOutcome[] = [
  'accepted',
  'refused',
  'wrong-environment',
  'undecided',
  'unknown',
  'missing',
  'ambiguous',
]

export interface Accepted {
  readonly accepted: true
  readonly key: KeyEntry
  /** To be added to the request for the API; what the caller sent under these names must be removed. */
  readonly identity: Readonly<Record<string, string>>
  /** To be added to the response. */
  readonly responseHeaders: Readonly<Record<string, string>>
}
export interface Refused {
  readonly accepted: false
  readonly problem: ProblemDocument
  readonly responseHeaders: Readonly<Record<string, string>>
}
export type Authentication = Accepted | Refused

const CHALLENGE = Object.freeze({ 'www-authenticate': 'Bearer' })
const NOTHING: Readonly<Record<string, string>> = Object.freeze({})
const MISSING_KEY: Refused = Object.freeze({ accepted: false, problem: problem('missing-key'), responseHeaders: CHALLENGE })
const INVALID_KEY: Refused = Object.freeze({ accepted: false, problem: problem('invalid-key'), responseHeaders: CHALLENGE })
const BEARER = /^bearer +(\S.*)$/i

type Shown = { readonly token: string } | 'missing' | 'ambiguous'

function values(field: string | readonly string[] | undefined): readonly string[] {
  if (field === undefined) return []
  return typeof field === 'string' ? [field] : field
}

/** The one token that a request shows. Two of them, even equal ones, are none: which one counts must not be a matter of taste. */
function shownToken(headers: RequestInfo['headers']): Shown {
  const authorization = values(headers['authorization'])
  const apiKey = values(headers['x-api-key'])
  if (authorization.length + apiKey.length > 1) return 'ambiguous'
  const token = apiKey[0]?.trim() ?? BEARER.exec(authorization[0]?.trim() ?? '')?.[1]
  return token === undefined || token === '' ? 'missing' : { token }
}

const single = (field: string | readonly string[] | undefined): string | undefined =>
  typeof field === 'object' ? field[0] : field

function accept(key: KeyEntry): Accepted {
  const { sunsetAt, successor } = key
  return {
    accepted: true,
    key,
    identity: {
      [HEADERS.client]: key.clientId,
      [HEADERS.credential]: key.credentialId,
      [HEADERS.keyId]: key.keyId,
      [HEADERS.scopes]: key.scopes.join(' '),
    },
    responseHeaders:
      sunsetAt === undefined || successor === undefined
        ? NOTHING
        : { [HEADERS.rotation]: formatRotationNotice({ sunset: new Date(sunsetAt), successor }) },
  }
}

export interface AuthenticateOptions {
  readonly verify: Verify
  readonly usage: Pick<Usage, 'count'>
  readonly clock: () => number
  /** Stopped gateways are `loading`, too: they must not decide. */
  readonly freshness: (now: number) => Freshness
  readonly failClosed: (key: KeyEntry) => boolean
  readonly retryAfterSeconds: number
  readonly onOutcome: (outcome: RequestOutcome) => void
}

export function createAuthenticate(options: AuthenticateOptions): (request: RequestInfo) => Authentication {
  const { verify, usage, clock, freshness, failClosed, retryAfterSeconds, onOutcome } = options
  const cleanUserAgent = createUserAgentCleaner()
  const undecided: Refused = Object.freeze({
    accepted: false,
    problem: problem('gateway-undecided'),
    responseHeaders: { 'retry-after': String(retryAfterSeconds) },
  })
  const settle = (decision: Decision, state: Freshness): RequestOutcome => {
    if (state === 'loading') return 'undecided'
    if (decision.outcome === 'accepted' && state === 'stale' && failClosed(decision.key)) return 'undecided'
    return decision.outcome
  }
  return (request) => {
    const shown = shownToken(request.headers)
    if (typeof shown === 'string') {
      onOutcome(shown)
      return shown === 'missing' ? MISSING_KEY : INVALID_KEY
    }
    const now = clock()
    const decision = verify(shown.token, now)
    const outcome = settle(decision, freshness(now))
    onOutcome(outcome)
    if (decision.outcome !== 'unknown' && outcome !== 'unknown' && outcome !== 'missing' && outcome !== 'ambiguous') {
      usage.count(decision.key.keyId, outcome, {
        address: cleanAddress(request.address) ?? 'unknown',
        userAgent: cleanUserAgent(single(request.headers['user-agent']), shown.token),
      })
    }
    if (outcome === 'undecided') return undecided
    return outcome === 'accepted' && decision.outcome === 'accepted' ? accept(decision.key) : INVALID_KEY
  }
}
