/** The gateway as a library: a cache of keys that Kafka keeps up to date, decisions from it, and reports back. */
import { randomUUID } from 'node:crypto'
import { type Environment, type GatewayId, type GatewayReport, isSessionToken } from '@keyturn/contract'
import type { Registry } from 'prom-client'
import { type Authenticate, createAuthenticate } from './authenticate.ts'
import { BadTokens } from './bad-tokens.ts'
import { createEntrance } from './entrance.ts'
import { createFailClosed } from './fail-closed.ts'
import { Fallback, type FallbackAddress } from './fallback.ts'
import { createFollow, type Follow } from './follow.ts'
import type { Freshness } from './freshness.ts'
import { connectKafka, createPublisher, type KafkaAddress } from './kafka.ts'
import { KeyCache, type KeyEntry } from './key-cache.ts'
import { KeyFeed } from './key-feed.ts'
import type { SkipReason } from './key-messages.ts'
import type { Log } from './log.ts'
import { createMetrics } from './metrics.ts'
import { createReplayGuard, DEFAULT_REPLAY, type ReplaySettings } from './replay/create.ts'
import type { ReplayGuard } from './replay/guard.ts'
import { Reports } from './reports.ts'
import { SessionKeys } from './session-keys.ts'
import { createSessionTurn } from './session-turn.ts'
import { createSessions } from './sessions.ts'
import { createAuthenticateSigned } from './signatures/authenticate.ts'
import { DEFAULT_SIGNING, type SigningSettings } from './signatures/settings.ts'
import { SigningKeys } from './signatures/signing-keys.ts'
import { type Tracer, traced } from './tracing.ts'
import { Turnstile } from './turnstile.ts'
import { Usage } from './usage.ts'
import { createVerify, type Decision, type Verify } from './verify.ts'
import { within } from './wait.ts'

export interface GatewayOptions {
  readonly kafka: KafkaAddress
  readonly gatewayId: string
  readonly region: string
  /** Whose keys are accepted here. */
  readonly environments: readonly Environment[]
  /** Scope patterns and `env:…` that a stale gateway refuses to decide on. */
  readonly failClosed: readonly string[]
  readonly stalenessMs: number
  readonly heartbeatMs: number
  readonly usageWindowMs: number
  /** ms since the epoch. Everything that is compared or reported comes from it; only waiting is real. */
  readonly clock?: () => number
  readonly log: Log
  /** Where to ask which keys have ended while Kafka is silent. Nothing: nowhere. */
  readonly fallback?: FallbackAddress | undefined
  /** Where the keys are published that session tokens are verified with. Nothing: there are no sessions. */
  readonly jwksUrl?: string | undefined
  /** How signed requests are kept from being sent twice. Nothing: in this process, with the usual window. */
  readonly replay?: ReplaySettings | undefined
  /** How signatures are checked. What is not set is as by default; without key-encryption keys, requests of HMAC keys get 503. */
  readonly signing?: Partial<SigningSettings> | undefined
  /** After how long without Kafka the keys topic is read again from its start. 12 h. */
  readonly reloadAfterMs?: number
  /** How many bad tokens an address may show in a second before their refusals are held back. 20; 0: no limit. */
  readonly badTokensPerSecond?: number
  /** OpenTelemetry's, for a span per decision. Nothing: none. */
  readonly tracer?: Tracer | undefined
}

export interface GatewayStatus {
  readonly gatewayId: string
  readonly incarnation: string
  readonly ready: boolean
  readonly freshness: Freshness
  readonly freshAsOf: string | undefined
  readonly usageThrough: string | undefined
  readonly keys: number
  readonly lag: number
  readonly positions: Readonly<Record<string, number>>
  readonly skipped: Readonly<Record<SkipReason, number>>
}

export interface Gateway {
  /** Resolves once the gateway is ready; tries for as long as Kafka is not there. Rejects when it is stopped before that. */
  start(): Promise<void>
  /** All keys that were published when the gateway announced itself are loaded, and it has not been stopped. */
  readonly ready: boolean
  status(): GatewayStatus
  readonly authenticate: Authenticate
  /** For connections that stay open. */
  readonly follow: Follow
  /** Decides on a token alone. Counts nothing, and knows nothing of freshness. */
  verify(token: string): Decision
  /** The API answered 401 or 403 to a request that was accepted. To be called before that answer is passed on. */
  refusedUpstream(key: KeyEntry): void
  /** Resolves when every request so far is counted in what Kafka has acknowledged. Rejects when Kafka does not take it; nothing is lost. */
  flushUsage(): Promise<void>
  readonly cache: KeyCache
  /** Asked after the signature of a request is known to be right. */
  readonly replay: ReplayGuard
  readonly metrics: Registry
  /**
   * Decides nothing any more, sends what it has counted, and says goodbye. Never rejects.
   * @param patienceMs at most so long, when Kafka is away
   */
  stop(patienceMs?: number): Promise<void>
}

const iso = (at: number | undefined): string | undefined => (at === undefined ? undefined : new Date(at).toISOString())

export function createGateway(options: GatewayOptions): Gateway {
  const { kafka: address, region, environments, stalenessMs, heartbeatMs, usageWindowMs, log } = options
  const gatewayId = options.gatewayId as GatewayId
  const clock = options.clock ?? Date.now
  const incarnation = randomUUID()
  const { topics } = address
  const kafka = connectKafka(address.brokers, `keyturn-gateway-${gatewayId}`, log)
  const cache = new KeyCache()
  const failClosed = createFailClosed(options.failClosed)
  const verifyKey = createVerify(cache, environments)
  const sessionKeys = options.jwksUrl === undefined ? undefined : new SessionKeys({ url: options.jwksUrl, clock, log })
  const sessions = sessionKeys === undefined ? undefined : createSessions({ keys: sessionKeys, cache, environments, failClosed })
  const verify: Verify = (token, now) =>
    sessions !== undefined && isSessionToken(token) ? sessions.verify(token, now) : verifyKey(token, now)
  const metrics = createMetrics()
  // A connection each: a large usage flush must not stand before a watermark.
  const reportPublisher = createPublisher(kafka)
  const usagePublisher = createPublisher(kafka)
  let started: Promise<void> | undefined
  let stopping: Promise<void> | undefined
  let tellStopped: () => void = () => undefined
  const stopAsked = new Promise<void>((resolve) => {
    tellStopped = resolve
  })

  const freshness = (now: number): Freshness => (stopping === undefined ? feed.freshness(now) : 'loading')
  const describe = (): GatewayReport => {
    const now = clock()
    const freshAsOf = iso(feed.freshAsOf)
    const usageThrough = iso(usage.through)
    return {
      gatewayId,
      incarnation,
      region,
      at: new Date(now).toISOString(),
      positions: feed.positions,
      keys: cache.size,
      freshness: feed.freshness(now),
      ...(freshAsOf === undefined ? {} : { freshAsOf }),
      ...(usageThrough === undefined ? {} : { usageThrough }),
    }
  }
  const reports = new Reports({ publisher: reportPublisher, topics, gatewayId, heartbeatMs, clock, log, describe })
  const usage = new Usage({
    publisher: usagePublisher,
    topics,
    gatewayId,
    incarnation,
    windowMs: usageWindowMs,
    clock,
    log,
    onFlushed: () => reports.poke(),
  })
  const feed = new KeyFeed({
    kafka,
    topic: topics.keys,
    gatewayId,
    cache,
    stalenessMs,
    clock,
    log,
    onChange: () => reports.poke(),
    reloadAfterMs: options.reloadAfterMs,
  })
  const fallback =
    options.fallback === undefined
      ? undefined
      : new Fallback({ ...options.fallback, gatewayId, cache, stalenessMs, clock, freshAsOf: () => feed.freshAsOf, log })
  const badTokens = new BadTokens({ perSecond: options.badTokensPerSecond ?? 20, clock })
  const replaySettings = options.replay ?? DEFAULT_REPLAY
  const replay = createReplayGuard(replaySettings, { startedAt: clock(), clock, log })
  const signing = { ...DEFAULT_SIGNING, ...options.signing }
  const signingKeys = new SigningKeys({ cache, keks: signing.keks, log })
  metrics.watch({ cache, feed, reports, usage, fallback, badTokens, replay, signingKeys, sessionKeys, sessions, clock })
  const common = {
    usage,
    clock,
    freshness,
    failClosed,
    retryAfterSeconds: Math.max(1, Math.ceil(stalenessMs / 6_000)),
    onOutcome: metrics.request,
    badTokens,
  }
  const turnstile = new Turnstile({ badTokens })
  const shown = createAuthenticate({ ...common, verify })
  const authenticate = createEntrance(
    sessions === undefined ? shown : createSessionTurn(shown, { ...common, sessions, turnstile }),
    createAuthenticateSigned({
      ...common,
      cache,
      environments,
      keys: signingKeys,
      replay,
      turnstile,
      windowMs: replaySettings.windowMs,
      settings: signing,
    }),
  )

  const start = async (): Promise<void> => {
    const refuseWhenStopped = (): void => {
      if (stopping !== undefined) throw new Error('the gateway was stopped before it was ready')
    }
    refuseWhenStopped()
    log.info({ gatewayId, incarnation, region, environments, brokers: address.brokers }, 'gateway starts')
    // The order is the guarantee: announced and acknowledged, then the ends are asked for, then ready.
    await reports.announce()
    refuseWhenStopped()
    feed.start()
    usage.start()
    fallback?.start()
    sessionKeys?.start()
    await Promise.race([feed.loaded, stopAsked])
    refuseWhenStopped()
    log.info({ gatewayId, keys: cache.size }, 'gateway is ready')
  }
  const stop = async (patienceMs: number): Promise<void> => {
    const until = performance.now() + patienceMs
    const left = (share: number): number => Math.max(200, (until - performance.now()) * share)
    tellStopped()
    // Whoever reads the goodbye believes that all usage of this gateway is known.
    let mayLeave = true
    try {
      await within(
        left(0.6),
        'the last usage report',
        usage.stop().then(() => usage.flush()),
      )
    } catch (error) {
      mayLeave = usage.pending === 0
      log.error({ err: error, pending: usage.pending }, 'the last usage report could not be sent: these counts are lost')
    }
    await Promise.all([
      within(left(0.9), 'stopping the key consumer', feed.stop()).catch(() => undefined),
      fallback?.stop(),
      replay.close(),
      sessionKeys?.stop(),
      reports.stop(left(0.8), mayLeave),
    ])
    await Promise.all([reportPublisher.close(), usagePublisher.close()])
    log.info({ gatewayId }, 'gateway has stopped')
  }

  return {
    start: () => {
      started ??= start()
      return started
    },
    get ready() {
      return stopping === undefined && feed.freshAsOf !== undefined
    },
    status: () => {
      const now = clock()
      return {
        gatewayId,
        incarnation,
        ready: stopping === undefined && feed.freshAsOf !== undefined,
        freshness: freshness(now),
        freshAsOf: iso(feed.freshAsOf),
        usageThrough: iso(usage.through),
        keys: cache.size,
        lag: feed.lag,
        positions: feed.positions,
        skipped: Object.fromEntries(feed.skipped) as Record<SkipReason, number>,
      }
    },
    authenticate: traced(options.tracer, authenticate),
    follow: createFollow(cache, clock),
    verify: (token) => verify(token, clock()),
    refusedUpstream: (key) => {
      metrics.refusedUpstream()
      usage.count(key.keyId, 'refused-upstream', undefined)
    },
    flushUsage: () => usage.flush(),
    cache,
    replay,
    metrics: metrics.registry,
    stop: (patienceMs = 5_000) => {
      stopping ??= stop(patienceMs)
      return stopping
    },
  }
}
