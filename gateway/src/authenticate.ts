/** A request's header fields, its address, and what is to be done with it. Refusals look all the same: they are no oracle. */
import { HEADERS, type ProblemDocument, problem, type UsageOutcome } from '@keyturn/contract'
import type { BadTokens } from './bad-tokens.ts'
import type { Freshness } from './freshness.ts'
import type { KeyEntry } from './key-cache.ts'
import { rotationNotice } from './notice.ts'
import { forbids } from './permissions.ts'
import type { RequestInfo } from './request-info.ts'
import { cleanAddress, createUserAgentCleaner } from './sources.ts'
import type { Usage } from './usage.ts'
import type { Decision, Verify } from './verify.ts'

/** For metrics. `ambiguous`: more than one key was shown. `forbidden`: a right key that may not do this. */
export type RequestOutcome = Exclude<UsageOutcome, 'refused-upstream'> | 'forbidden' | 'unknown' | 'missing' | 'ambiguous'
export const REQUEST_OUTCOMES: readonly RequestOutcome[] = [
  'accepted',
  'forbidden',
  'refused',
  'wrong-environment',
  'undecided',
  'replayed',
  'stale',
  'out-of-order',
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
  /** So long the answer is to be held back: too many bad tokens come from there. */
  readonly holdMs?: number
}
export type Authentication = Accepted | Refused
/**
 * Decides on a request and counts it.
 * @param scopes what the key must have, all of them; nothing by default
 */
export type Authenticate = (request: RequestInfo, scopes?: readonly string[]) => Authentication

const CHALLENGE = Object.freeze({ 'www-authenticate': 'Bearer' })
const NO_SCOPES: readonly string[] = Object.freeze([])
const MISSING_KEY: Refused = Object.freeze({ accepted: false, problem: problem('missing-key'), responseHeaders: CHALLENGE })
const INVALID_KEY: Refused = Object.freeze({ accepted: false, problem: problem('invalid-key'), responseHeaders: CHALLENGE })
const BEARER = /^bearer +([^ ].*)$/i

type Shown = { readonly token: string } | 'missing' | 'ambiguous'

/** Without the blanks around it that RFC 9110 allows. `trim` would take more: a token with a no-break space after it is another token. */
function stripped(value: string): string {
  let from = 0
  let to = value.length
  const blank = (at: number): boolean => value[at] === ' ' || value[at] === '\t'
  while (from < to && blank(from)) from += 1
  while (from < to && blank(to - 1)) to -= 1
  return value.slice(from, to)
}

function values(field: string | readonly string[] | undefined): readonly string[] {
  if (field === undefined) return []
  return typeof field === 'string' ? [field] : field
}

/** The one token that a request shows. Two of them, even equal ones, are none: which one counts must not be a matter of taste. */
function shownToken(headers: RequestInfo['headers']): Shown {
  const authorization = values(headers['authorization'])
  const apiKey = values(headers['x-api-key'])
  if (authorization.length + apiKey.length > 1) return 'ambiguous'
  const token = apiKey[0] === undefined ? BEARER.exec(stripped(authorization[0] ?? ''))?.[1] : stripped(apiKey[0])
  return token === undefined || token === '' ? 'missing' : { token }
}

const single = (field: string | readonly string[] | undefined): string | undefined =>
  typeof field === 'object' ? field[0] : field

function accept(key: KeyEntry): Accepted {
  return {
    accepted: true,
    key,
    identity: {
      [HEADERS.client]: key.clientId,
      [HEADERS.credential]: key.credentialId,
      [HEADERS.keyId]: key.keyId,
      [HEADERS.scopes]: key.scopes.join(' '),
    },
    responseHeaders: rotationNotice(key),
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
  readonly badTokens: Pick<BadTokens, 'holdMs'>
}

export function createAuthenticate(options: AuthenticateOptions): Authenticate {
  const { verify, usage, clock, freshness, failClosed, retryAfterSeconds, onOutcome, badTokens } = options
  const cleanUserAgent = createUserAgentCleaner()
  const undecided: Refused = Object.freeze({
    accepted: false,
    problem: problem('gateway-undecided'),
    responseHeaders: { 'retry-after': String(retryAfterSeconds) },
  })
  const settle = (decision: Decision, state: Freshness): Decision['outcome'] | 'undecided' => {
    if (state === 'loading') return 'undecided'
    if (decision.outcome === 'accepted' && state === 'stale' && failClosed(decision.key)) return 'undecided'
    return decision.outcome
  }
  const refuse = (request: RequestInfo): Refused => {
    const holdMs = badTokens.holdMs(request.address)
    return holdMs === 0 ? INVALID_KEY : { ...INVALID_KEY, holdMs }
  }
  return (request, scopes = NO_SCOPES) => {
    const shown = shownToken(request.headers)
    if (typeof shown === 'string') {
      onOutcome(shown)
      return shown === 'missing' ? MISSING_KEY : refuse(request)
    }
    const now = clock()
    const decision = verify(shown.token, now)
    const outcome = settle(decision, freshness(now))
    const forbidden =
      outcome === 'accepted' && decision.outcome === 'accepted' ? forbids(decision.key, request, scopes) : undefined
    onOutcome(forbidden === undefined ? outcome : 'forbidden')
    if (decision.outcome !== 'unknown' && decision.key !== undefined && outcome !== 'unknown') {
      // Also when it is forbidden: the key is right, and in use. What it may not do is no reason to roll back a rotation.
      usage.count(decision.key.keyId, outcome, {
        address: cleanAddress(request.address) ?? 'unknown',
        userAgent: cleanUserAgent(single(request.headers['user-agent']), shown.token),
      })
    }
    if (outcome === 'undecided') return undecided
    if (outcome !== 'accepted' || decision.outcome !== 'accepted') return refuse(request)
    if (forbidden !== undefined) return { accepted: false, problem: forbidden, responseHeaders: rotationNotice(decision.key) }
    return accept(decision.key)
  }
}
