/** A request's header fields, its address, and what is to be done with it: of one that shows its token. Signed ones: `signatures/`. */
import { problem, type UsageOutcome } from '@keyturn/contract'
import { type Accepted, type AnswersOptions, CHALLENGE, createAnswers, type Refused } from './answers.ts'
import type { Freshness } from './freshness.ts'
import type { KeyEntry } from './key-cache.ts'
import { forbids } from './permissions.ts'
import type { RequestInfo } from './request-info.ts'
import type { Decision, Verify } from './verify.ts'

export type { Accepted, Refused }

/**
 * For metrics. `ambiguous`: more than one key was shown. `forbidden`: a right key that may not do this. `malformed`: signed in a way that can not be
 * checked, or with a body that could not be.
 */
export type RequestOutcome =
  | Exclude<UsageOutcome, 'refused-upstream'>
  | 'forbidden'
  | 'unknown'
  | 'missing'
  | 'ambiguous'
  | 'malformed'
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
  'malformed',
]

export type Authentication = Accepted | Refused
/**
 * Decides on a request and counts it. A token that is shown is decided on at once.
 * @param scopes what the key must have, all of them; nothing by default
 */
export type Authenticate = (request: RequestInfo, scopes?: readonly string[]) => Authentication | Promise<Authentication>
export type AuthenticateShown = (request: RequestInfo, scopes?: readonly string[]) => Authentication

const NO_SCOPES: readonly string[] = Object.freeze([])
const MISSING_KEY: Refused = Object.freeze({ accepted: false, problem: problem('missing-key'), responseHeaders: CHALLENGE })
const BEARER = /^bearer +([^ ].*)$/i

type Shown = { readonly token: string } | 'missing' | 'ambiguous'

/** Without the blanks around it that RFC 9110 allows. `trim` would take more: a token with a no-break space after it is another token. */
function stripped(value: string): string {
  let from = 0
  let to = value.length
  while (from < to && isBlank(value.charCodeAt(from))) from += 1
  while (from < to && isBlank(value.charCodeAt(to - 1))) to -= 1
  return value.slice(from, to)
}
const [SPACE, TAB] = [0x20, 0x09]
const isBlank = (code: number): boolean => code === SPACE || code === TAB

function values(field: string | readonly string[] | undefined): readonly string[] {
  if (field === undefined) return []
  return typeof field === 'string' ? [field] : field
}

/** The one token that a request shows. Two of them, even equal ones, are none: which one counts must not be a matter of taste. */
export function shownToken(headers: RequestInfo['headers']): Shown {
  const authorization = values(headers['authorization'])
  const apiKey = values(headers['x-api-key'])
  if (authorization.length + apiKey.length > 1) return 'ambiguous'
  const token = apiKey[0] === undefined ? BEARER.exec(stripped(authorization[0] ?? ''))?.[1] : stripped(apiKey[0])
  return token === undefined || token === '' ? 'missing' : { token }
}

export interface AuthenticateOptions extends AnswersOptions {
  readonly verify: Verify
  readonly clock: () => number
  /** Stopped gateways are `loading`, too: they must not decide. */
  readonly freshness: (now: number) => Freshness
  readonly failClosed: (key: KeyEntry) => boolean
  readonly onOutcome: (outcome: RequestOutcome) => void
}

export function createAuthenticate(options: AuthenticateOptions): AuthenticateShown {
  const { verify, clock, freshness, failClosed, onOutcome } = options
  const answers = createAnswers(options)
  const settle = (decision: Decision, state: Freshness): Decision['outcome'] | 'undecided' => {
    if (state === 'loading') return 'undecided'
    if (decision.outcome === 'accepted' && state === 'stale' && failClosed(decision.key)) return 'undecided'
    return decision.outcome
  }
  return (request, scopes = NO_SCOPES) => {
    const shown = shownToken(request.headers)
    if (typeof shown === 'string') {
      onOutcome(shown)
      return shown === 'missing' ? MISSING_KEY : answers.refuse(request)
    }
    const now = clock()
    const decision = verify(shown.token, now)
    const outcome = settle(decision, freshness(now))
    const forbidden =
      outcome === 'accepted' && decision.outcome === 'accepted' ? forbids(decision.key, request, scopes) : undefined
    onOutcome(forbidden === undefined ? outcome : 'forbidden')
    if (decision.outcome !== 'unknown' && decision.key !== undefined && outcome !== 'unknown') {
      // Also when it is forbidden: the key is right, and in use. What it may not do is no reason to roll back a rotation.
      answers.count(decision.key.keyId, outcome, request, shown.token)
    }
    if (outcome === 'undecided') return answers.undecided
    if (outcome !== 'accepted' || decision.outcome !== 'accepted') return answers.refuse(request)
    return forbidden === undefined ? answers.accept(decision.key) : answers.forbid(decision.key, forbidden)
  }
}
