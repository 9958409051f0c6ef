/**
 * Decides on a signed request. In this order, so that nobody learns of a key, uses up a nonce or has a body held who can not sign: the form; the
 * signature; the time; the key; the body; the nonce; and the key once more, for it may have ended while we waited.
 */
import { type Environment, type KeyId, type ProblemCode, problem, type ReplayOutcome } from '@keyturn/contract'
import { type AnswersOptions, CHALLENGE, createAnswers, type Refused } from '../answers.ts'
import type { AuthenticateOptions, Authentication } from '../authenticate.ts'
import { announcesBody, type BodyFlaw } from '../body.ts'
import type { KeyCache, KeyEntry } from '../key-cache.ts'
import { forbids } from '../permissions.ts'
import { createOriginOf } from '../public-address.ts'
import { isTimely, type ReplayGuard } from '../replay/guard.ts'
import type { RequestInfo } from '../request-info.ts'
import { callerNetwork } from '../sources.ts'
import type { Turnstile } from '../turnstile.ts'
import { type Decision, judge } from '../verify.ts'
import { BodyRoom } from './body-room.ts'
import { fits } from './content-digest.ts'
import { Flaw } from './flaw.ts'
import { readMessageSignature } from './message-signature.ts'
import { readPlainSignature } from './plain-signature.ts'
import type { SigningSettings } from './settings.ts'
import type { Way } from './shown.ts'
import type { Target } from './signature-base.ts'
import type { SignedRequest } from './signed-request.ts'
import type { SigningKeys } from './signing-keys.ts'

export interface AuthenticateSignedOptions
  extends AnswersOptions,
    Pick<AuthenticateOptions, 'clock' | 'freshness' | 'failClosed' | 'onOutcome'> {
  readonly cache: Pick<KeyCache, 'get'>
  readonly environments: readonly Environment[]
  readonly keys: Pick<SigningKeys, 'check'>
  readonly replay: Pick<ReplayGuard, 'check'>
  readonly turnstile: Pick<Turnstile, 'enter' | 'right' | 'wrong'>
  readonly windowMs: number
  readonly settings: SigningSettings
}
export type AuthenticateSigned = (request: RequestInfo, way: Way, scopes: readonly string[]) => Promise<Authentication>

const NOTHING = Buffer.alloc(0)
/** A request with one of them has no body that anybody reads. */
const WITHOUT_BODY = ['GET', 'HEAD', 'OPTIONS']
/** Bodies that are held at one time, in bytes: those whose signature is known to be right, and as much again of others. */
const MOST_HELD = 64 * 1_048_576
/** Of one key or, where it is not known to be right, of one address. */
const MOST_HELD_EACH = MOST_HELD / 4

const refusal = (code: ProblemCode, detail?: string): Refused => ({
  accepted: false,
  problem: problem(code, detail),
  responseHeaders: CHALLENGE,
})
const REPLIES = {
  stale: refusal('request-stale', 'Sign anew; compare the clock of the client with a time server.'),
  replayed: refusal('request-replayed', 'Each request needs a nonce of its own.'),
  'out-of-order': refusal('request-out-of-order'),
} satisfies Record<ReplayOutcome, Refused>
const UNSEEN = new Flaw(
  `The body of this request can not be compared with its digest here: only ${WITHOUT_BODY.join(', ')} are accepted signed`,
)
const UNNUMBERED = new Flaw('The requests of this key are numbered: send X-Sequence, signed')

export function createAuthenticateSigned(options: AuthenticateSignedOptions): AuthenticateSigned {
  const { cache, environments, keys, replay, turnstile, windowMs, settings, clock, freshness, failClosed, onOutcome } = options
  const { bodyLimit, bodyTimeoutMs, unseenBodies } = settings
  const answers = createAnswers(options)
  const originOf = createOriginOf(settings.publicUrls)
  const createRoom = (): BodyRoom =>
    new BodyRoom({ most: Math.max(MOST_HELD, bodyLimit), mostEach: Math.max(MOST_HELD_EACH, bodyLimit), clock })
  // Apart, so that callers who can not sign take nothing from those who can.
  const [roomOfSigned, roomOfUnproved] = [createRoom(), createRoom()]

  const flawed = (refused: Refused): Refused => {
    onOutcome('malformed')
    return refused
  }
  const malformed = ({ detail }: Flaw): Refused => flawed(refusal('signature-malformed', detail))
  const undecided = (): Refused => {
    onOutcome('undecided')
    return answers.undecided
  }
  /** What is left of the body is of no use to anyone. */
  const closing = (refused: Refused): Refused => ({
    ...refused,
    responseHeaders: { ...refused.responseHeaders, connection: 'close' },
  })
  const badBody = (flaw: BodyFlaw | 'no-room'): Refused => {
    if (flaw === 'no-room') return closing(undecided())
    const { problem: document } = {
      'too-large': refusal('too-large', `A signed body has at most ${bodyLimit} bytes here.`),
      'too-slow': refusal('body-too-slow'),
      incomplete: refusal('invalid-request', 'The body broke off.'),
    }[flaw]
    return flawed(closing({ accepted: false, problem: document, responseHeaders: {} }))
  }
  const readBody = ({ headers, body }: RequestInfo, room: BodyRoom, owner: string) => {
    if (body === undefined || body === 'unseen') return NOTHING
    const told = Number(headers['content-length'])
    const announced = Number.isNaN(told) ? bodyLimit : Math.min(told, bodyLimit)
    return room.read(owner, body, announced, { most: bodyLimit, withinMs: bodyTimeoutMs })
  }
  const outcomeOf = (key: KeyEntry | undefined, now: number): Decision['outcome'] => {
    const state = freshness(now)
    if (state === 'loading') return 'undecided'
    if (key === undefined) return 'unknown'
    const { outcome } = judge(key, now, environments)
    return outcome === 'accepted' && state === 'stale' && failClosed(key) ? 'undecided' : outcome
  }
  /** Of a request that is rightly signed, and not accepted. */
  const end = (request: RequestInfo, key: KeyEntry | undefined, outcome: Decision['outcome'] | ReplayOutcome): Refused => {
    onOutcome(outcome)
    if (key !== undefined) turnstile.wrong(request.address, key.keyId)
    if (key !== undefined && outcome !== 'unknown') answers.count(key.keyId, outcome, request)
    if (outcome === 'undecided') return answers.undecided
    return outcome in REPLIES ? REPLIES[outcome as keyof typeof REPLIES] : answers.refuse(request)
  }

  const read = (request: RequestInfo, way: Way, hasBody: boolean): SignedRequest | Flaw => {
    const { headers, method, url } = request
    if (method === undefined || url === undefined || !url.startsWith('/')) return new Flaw('The request target is no path')
    const target: Target = { headers, method, url, ...originOf(request) }
    return way === 'message' ? readMessageSignature(target, hasBody) : readPlainSignature(target)
  }

  return async (request, way, scopes) => {
    if (way === 'both') {
      onOutcome('ambiguous')
      return answers.refuse(request)
    }
    const { body } = request
    const announced = announcesBody(request.headers) || (typeof body === 'object' && body.announced === true)
    const unseen = body === 'unseen' || (body === undefined && announced)
    const hasBody = announced || (unseen && !WITHOUT_BODY.includes(request.method ?? ''))
    const signed = read(request, way, hasBody)
    if (signed instanceof Flaw) return malformed(signed)
    const { keyId, kind, signature, nonce, created, expires, sequence, base, digests } = signed
    const declared = hasBody || digests !== undefined
    if (unseen && declared && (unseenBodies === 'refuse' || body === undefined || way === 'plain')) return malformed(UNSEEN)
    if (freshness(clock()) === 'loading') return undecided()

    let content: Buffer | undefined
    const look = async (room: BodyRoom, owner: string): Promise<Refused | undefined> => {
      const found = hasBody ? await readBody(request, room, owner) : NOTHING
      if (typeof found === 'string') return badBody(found)
      content = found
      return undefined
    }
    if (typeof base === 'function') {
      const refused = await look(roomOfUnproved, callerNetwork(request.address))
      if (refused !== undefined) return refused
    }
    if (kind === 'ed25519' && (await turnstile.enter(request.address, keyId)) === false) return undecided()
    const checked = keys.check(keyId, kind, typeof base === 'function' ? base(content ?? NOTHING) : base, signature)
    if (checked === 'unopened') return undecided()
    if (checked === 'wrong') {
      // Not counted for the key: anybody can write its id.
      onOutcome('unknown')
      turnstile.wrong(request.address, keyId)
      return answers.refuse(request)
    }

    const key = () => cache.get(keyId as KeyId)
    const now = clock()
    const isStale = (at: number): boolean => !isTimely(created, at, windowMs) || (expires !== undefined && at > expires * 1_000)
    if (isStale(now)) return end(request, key(), 'stale')
    const known = key()
    const first = outcomeOf(known, now)
    if (known === undefined || first !== 'accepted') return end(request, known, first)
    if (sequence === undefined && known.restriction?.requiresSequence === true) return malformed(UNNUMBERED)
    if (digests !== undefined && !unseen) {
      const refused = await look(roomOfSigned, keyId)
      if (refused !== undefined) return refused
      if (!fits(digests, content ?? NOTHING))
        return flawed(refusal('digest-mismatch', 'The body does not fit its Content-Digest.'))
    }
    const input = { keyId, nonce, created, scopes: known.scopes, ...(sequence === undefined ? {} : { sequence }) }
    const arrived = clock()
    const verdict = await replay.check(input, arrived)
    if (verdict === 'full' || verdict === 'unavailable') return end(request, known, 'undecided')
    if (verdict !== 'fresh') return end(request, known, isStale(arrived) ? 'stale' : verdict)

    const after = key()
    const last = outcomeOf(after, clock())
    if (after === undefined || last !== 'accepted') return end(request, after, last)
    if (kind === 'ed25519') turnstile.right(request.address, keyId)
    const forbidden = forbids(after, request, scopes)
    onOutcome(forbidden === undefined ? 'accepted' : 'forbidden')
    answers.count(after.keyId, 'accepted', request)
    return forbidden === undefined ? answers.accept(after) : answers.forbid(after, forbidden)
  }
}
