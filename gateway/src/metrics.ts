/** What Prometheus reads. A registry of its own, so that a program with a gateway inside keeps its metrics apart. */
import { Counter, Gauge, Registry } from 'prom-client'
import { REQUEST_OUTCOMES, type RequestOutcome } from './authenticate.ts'
import type { BadTokens } from './bad-tokens.ts'
import type { Fallback } from './fallback.ts'
import type { KeyCache } from './key-cache.ts'
import type { KeyFeed } from './key-feed.ts'
import type { ReplayGuard } from './replay/guard.ts'
import type { Reports } from './reports.ts'
import type { SessionKeys } from './session-keys.ts'
import type { Sessions } from './sessions.ts'
import type { SigningKeys } from './signatures/signing-keys.ts'
import type { Usage } from './usage.ts'

export interface Metrics {
  readonly registry: Registry
  readonly request: (outcome: RequestOutcome) => void
  readonly refusedUpstream: () => void
}

/** Numbers that their owners keep, read when Prometheus asks. */
interface Watched {
  readonly cache: KeyCache
  readonly feed: KeyFeed
  readonly reports: Reports
  readonly usage: Usage
  readonly fallback: Fallback | undefined
  readonly badTokens: BadTokens
  readonly replay: ReplayGuard
  readonly signingKeys: SigningKeys
  /** Nothing, both: there are no sessions. */
  readonly sessionKeys: SessionKeys | undefined
  readonly sessions: Sessions | undefined
  readonly clock: () => number
}

export function createMetrics(): Metrics & { watch(watched: Watched): void } {
  const registry = new Registry()
  const registers = [registry]
  const requests = new Counter({
    name: 'keyturn_gateway_requests_total',
    help: 'Requests by what became of them',
    labelNames: ['outcome'],
    registers,
  })
  const counters = new Map(REQUEST_OUTCOMES.map((outcome) => [outcome, requests.labels(outcome)]))
  for (const counter of counters.values()) counter.inc(0)
  const upstreamRefusals = new Counter({
    name: 'keyturn_gateway_upstream_refusals_total',
    help: 'Accepted requests that the API behind answered with 401 or 403',
    registers,
  })

  const number = (name: string, help: string, read: () => number | undefined): Gauge =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        const value = read()
        if (value === undefined) this.remove()
        else this.set(value)
      },
    })
  const total = (name: string, help: string, read: () => number): Counter =>
    new Counter({
      name,
      help,
      registers,
      collect() {
        this.reset()
        this.inc(read())
      },
    })

  return {
    registry,
    request: (outcome) => counters.get(outcome)?.inc(),
    refusedUpstream: () => upstreamRefusals.inc(),
    watch({ cache, feed, reports, usage, fallback, badTokens, replay, signingKeys, sessionKeys, sessions, clock }) {
      number('keyturn_gateway_keys', 'Keys in the cache', () => cache.size)
      number('keyturn_gateway_stale', '1 while nothing was heard from Kafka within the staleness bound', () =>
        feed.freshness(clock()) === 'stale' ? 1 : 0,
      )
      number('keyturn_gateway_loaded', '1 once all keys are loaded', () => (feed.freshAsOf === undefined ? 0 : 1))
      number('keyturn_gateway_freshness_age_seconds', 'Age of what the gateway knows', () =>
        feed.freshAsOf === undefined ? undefined : Math.max(0, clock() - feed.freshAsOf) / 1000,
      )
      number('keyturn_gateway_lag_messages', 'Messages of the keys topic that are not applied yet', () => feed.lag)
      number('keyturn_gateway_usage_pending', 'Keys with counts that Kafka has not acknowledged', () => usage.pending)
      number('keyturn_gateway_replay_held', 'Nonces, and keys with a sequence, that this process remembers', () => replay.held)
      number('keyturn_gateway_replay_ready', '0 while Redis is away', () => (replay.ready ? 1 : 0))
      total('keyturn_gateway_opened_total', 'Sealed signing keys that were opened', () => signingKeys.counts.opened)
      total(
        'keyturn_gateway_unopened_total',
        'Requests answered with 503 because no key-encryption key here opens their signing key',
        () => signingKeys.counts.unopened,
      )
      total('keyturn_gateway_key_events_applied_total', 'Key events applied', () => feed.applied)
      total('keyturn_gateway_consumer_restarts_total', 'How often the key consumer was replaced', () => feed.consumerRestarts)
      total('keyturn_gateway_report_failures_total', 'Watermark reports that could not be sent', () => reports.failed)
      total('keyturn_gateway_usage_failures_total', 'Usage flushes that failed; nothing is lost by them', () => usage.failed)
      total('keyturn_gateway_usage_reports_total', 'Usage reports that Kafka acknowledged', () => usage.reported)
      total('keyturn_gateway_limited_total', 'Refusals of addresses past their limit of bad tokens', () => badTokens.limited)
      if (sessionKeys !== undefined && sessions !== undefined) {
        number('keyturn_gateway_session_keys', 'Keys that session tokens are verified with', () => sessionKeys.size)
        number('keyturn_gateway_session_keys_age_seconds', 'How long ago these keys were fetched', () =>
          sessionKeys.asOf === undefined ? undefined : Math.max(0, clock() - sessionKeys.asOf) / 1000,
        )
        number('keyturn_gateway_sessions_remembered', 'Session tokens that are not verified anew', () => sessions.remembered)
      }
      if (fallback !== undefined) {
        total(
          'keyturn_gateway_fallback_answers_total',
          'Answers of the control plane while Kafka was silent',
          () => fallback.counts.answers,
        )
        total('keyturn_gateway_fallback_keys_total', 'Keys that these answers took away', () => fallback.counts.applied)
        total(
          'keyturn_gateway_fallback_refused_total',
          'Answers that were forged, altered or not for us',
          () => fallback.counts.refused,
        )
        total(
          'keyturn_gateway_fallback_failures_total',
          'Questions to the control plane without an answer',
          () => fallback.counts.failed,
        )
      }
      new Gauge({
        name: 'keyturn_gateway_keys_by_state',
        help: 'Keys in the cache by state',
        labelNames: ['state'],
        registers,
        collect() {
          for (const [state, count] of cache.countsByState()) if (state !== 'destroyed') this.set({ state }, count)
        },
      })
      new Counter({
        name: 'keyturn_gateway_messages_skipped_total',
        help: 'Messages of the keys topic that were skipped',
        labelNames: ['reason'],
        registers,
        collect() {
          this.reset()
          for (const [reason, count] of feed.skipped) this.inc({ reason }, count)
        },
      })
    },
  }
}
