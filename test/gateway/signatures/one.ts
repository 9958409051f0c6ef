/** A gateway's decision on signed requests, without the gateway around it. */
import type { UsageOutcome } from '@keyturn/contract'
import { createLog, createVerify, type Freshness, KeyCache, type RequestInfo } from '@keyturn/gateway'
import { createAuthenticate, type RequestOutcome } from '../../../gateway/src/authenticate.ts'
import { createEntrance } from '../../../gateway/src/entrance.ts'
import { createFailClosed } from '../../../gateway/src/fail-closed.ts'
import type { ReplayGuard } from '../../../gateway/src/replay/guard.ts'
import { MemoryGuard } from '../../../gateway/src/replay/memory.ts'
import { createAuthenticateSigned } from '../../../gateway/src/signatures/authenticate.ts'
import { DEFAULT_SIGNING, type SigningSettings } from '../../../gateway/src/signatures/settings.ts'
import { SigningKeys } from '../../../gateway/src/signatures/signing-keys.ts'
import { Turnstile } from '../../../gateway/src/turnstile.ts'
import { type IssuedKey, NOW, TestClock } from '../support.ts'
import { KEK } from './signing.ts'

export const CREATED = NOW / 1_000
export const HOST = 'api.example.com'

export interface OneOptions {
  readonly freshness?: Freshness
  readonly failClosed?: string[]
  readonly signing?: Partial<SigningSettings>
  readonly replay?: Pick<ReplayGuard, 'check'>
  readonly capacity?: number
  readonly turnstile?: Turnstile
}

export function openOne(keys: readonly IssuedKey[], options: OneOptions = {}) {
  const { freshness = 'fresh', failClosed = [], signing = {}, capacity = 100_000 } = options
  const clock = new TestClock()
  const cache = new KeyCache()
  for (const { record } of keys) cache.apply(record)
  const counted: { keyId: string; outcome: UsageOutcome; address: string | undefined; userAgent: string | undefined }[] = []
  const outcomes: RequestOutcome[] = []
  const held: (string | undefined)[] = []
  let text = ''
  const log = createLog('trace', {
    write: (line: string) => {
      text += line
    },
  })
  const settings = { ...DEFAULT_SIGNING, keks: [KEK], ...signing }
  const signingKeys = new SigningKeys({ cache, keks: settings.keks, log })
  const local = new MemoryGuard({ windowMs: 60_000, capacity, reorder: 4, startedAt: 0, failOpen: () => false, log })
  const common = {
    usage: {
      count: (keyId: string, outcome: UsageOutcome, source: { address: string; userAgent: string } | undefined) =>
        void counted.push({ keyId, outcome, address: source?.address, userAgent: source?.userAgent }),
    },
    clock: clock.read,
    freshness: () => freshness,
    failClosed: createFailClosed(failClosed),
    retryAfterSeconds: 5,
    onOutcome: (outcome: RequestOutcome) => void outcomes.push(outcome),
    badTokens: {
      holdMs: (address: string | undefined) => {
        held.push(address)
        return 0
      },
    },
  }
  const authenticate = createEntrance(
    createAuthenticate({ ...common, verify: createVerify(cache, ['prod']) }),
    createAuthenticateSigned({
      ...common,
      cache,
      environments: ['prod'],
      keys: signingKeys,
      replay: options.replay ?? local,
      turnstile: options.turnstile ?? new Turnstile({ badTokens: { isPastLimit: () => false } }),
      windowMs: 60_000,
      settings,
    }),
  )
  const code = async (request: Partial<RequestInfo>, scopes?: string[]): Promise<string> => {
    const answer = await authenticate(requestOf(request), scopes)
    return answer.accepted ? 'accepted' : answer.problem.code
  }
  const detail = async (request: Partial<RequestInfo>): Promise<string> => {
    const answer = await authenticate(requestOf(request))
    return answer.accepted ? 'accepted' : `${answer.problem.code}: ${answer.problem.detail ?? ''}`
  }
  return { authenticate, code, detail, counted, outcomes, held, clock, cache, signingKeys, logged: () => text }
}

export const requestOf = (request: Partial<RequestInfo>): RequestInfo => ({
  headers: {},
  address: '192.0.2.7',
  method: 'GET',
  url: '/',
  scheme: 'https',
  authority: HOST,
  ...request,
})

/** A body that is in memory already. */
export const bodyOf = (bytes: Uint8Array): NonNullable<RequestInfo['body']> => ({
  announced: true,
  read: ({ most }) => Promise.resolve(bytes.length > most ? 'too-large' : Buffer.from(bytes)),
})
