/** What follows from a decision, however the key was shown: it is counted, and answered. Refusals look all the same: they are no oracle. */
import { HEADERS, type KeyId, type ProblemDocument, problem, type UsageOutcome } from '@keyturn/contract'
import type { BadTokens } from './bad-tokens.ts'
import type { KeyEntry } from './key-cache.ts'
import { rotationNotice } from './notice.ts'
import type { RequestInfo } from './request-info.ts'
import { cleanAddress, createUserAgentCleaner } from './sources.ts'
import type { Usage } from './usage.ts'

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

export const CHALLENGE = Object.freeze({ 'www-authenticate': 'Bearer' })
const INVALID_KEY: Refused = Object.freeze({ accepted: false, problem: problem('invalid-key'), responseHeaders: CHALLENGE })

const single = (field: string | readonly string[] | undefined): string | undefined =>
  typeof field === 'object' ? field[0] : field

export interface AnswersOptions {
  readonly usage: Pick<Usage, 'count'>
  readonly retryAfterSeconds: number
  readonly badTokens: Pick<BadTokens, 'holdMs'>
}

export interface Answers {
  /** @param secret what the user agent must not be reported with, where it could hold it */
  count(keyId: KeyId, outcome: UsageOutcome, request: RequestInfo, secret?: string): void
  accept(key: KeyEntry): Accepted
  /** Whatever is wrong with a key. */
  refuse(request: RequestInfo): Refused
  /** The key is right, and may not do this. */
  forbid(key: KeyEntry, document: ProblemDocument): Refused
  readonly undecided: Refused
}

export function createAnswers({ usage, retryAfterSeconds, badTokens }: AnswersOptions): Answers {
  const cleanUserAgent = createUserAgentCleaner()
  return {
    count: (keyId, outcome, request, secret) =>
      usage.count(keyId, outcome, {
        address: cleanAddress(request.address) ?? 'unknown',
        userAgent: cleanUserAgent(single(request.headers['user-agent']), secret),
      }),
    accept: (key) => ({
      accepted: true,
      key,
      identity: {
        [HEADERS.client]: key.clientId,
        [HEADERS.credential]: key.credentialId,
        [HEADERS.keyId]: key.keyId,
        [HEADERS.scopes]: key.scopes.join(' '),
      },
      responseHeaders: rotationNotice(key),
    }),
    refuse: (request) => {
      const holdMs = badTokens.holdMs(request.address)
      return holdMs === 0 ? INVALID_KEY : { ...INVALID_KEY, holdMs }
    },
    forbid: (key, document) => ({ accepted: false, problem: document, responseHeaders: rotationNotice(key) }),
    undecided: Object.freeze({
      accepted: false,
      problem: problem('gateway-undecided'),
      responseHeaders: { 'retry-after': String(retryAfterSeconds) },
    }),
  }
}
