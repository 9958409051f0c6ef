/** What gateways say: where they stand (gateways topic), and who used which key (usage topic). And what everyone should hear: alerts. */
import Type from 'typebox'
import {
  CREDENTIAL_ID_PATTERN,
  type CredentialId,
  GATEWAY_ID_PATTERN,
  type GatewayId,
  KEY_ID_PATTERN,
  type KeyId,
  ROTATION_ID_PATTERN,
  type RotationId,
} from './ids.ts'
import { Timestamp } from './key-record.ts'

const GatewayIdSchema = Type.Unsafe<GatewayId>(Type.String({ pattern: GATEWAY_ID_PATTERN }))

export const GatewayReport = Type.Object({
  gatewayId: GatewayIdSchema,
  /** Changes with every start of the process, so that a restart shows. */
  incarnation: Type.String({ minLength: 1, maxLength: 64 }),
  region: Type.String({ maxLength: 64 }),
  at: Timestamp,
  positions: Type.Record(Type.String({ pattern: '^[0-9]+$' }), Type.Integer({ minimum: 0 }), {
    description: 'per partition of the keys topic, the offset that is applied next: every event below it is in the cache',
  }),
  keys: Type.Integer({ minimum: 0, description: 'keys in the cache' }),
  freshness: Type.Enum(['loading', 'fresh', 'stale'], {
    description: 'stale: nothing heard from Kafka within the staleness bound',
  }),
  freshAsOf: Type.Optional(Timestamp),
  usageThrough: Type.Optional(Timestamp),
})
export type GatewayReport = Type.Static<typeof GatewayReport>

/**
 * What became of a request that showed a key we know:
 * - `accepted`: it went to the API
 * - `refused`: the gateway refused the key (its state, expiry)
 * - `refused-upstream`: the gateway accepted it and the API behind answered 401 or 403
 * - `wrong-environment`: a key of another environment than the gateway's
 * - `undecided`: the gateway must not decide (stale and failClosed)
 * - `replayed`, `stale`, `out-of-order`: rightly signed, but sent before, not within the window, or with a sequence number that is not next
 */
export const USAGE_OUTCOMES = [
  'accepted',
  'refused',
  'refused-upstream',
  'wrong-environment',
  'undecided',
  'replayed',
  'stale',
  'out-of-order',
] as const
export type UsageOutcome = (typeof USAGE_OUTCOMES)[number]
/** What somebody may have sent who has heard a request and does not have the key. */
export const REPLAY_OUTCOMES = ['replayed', 'stale', 'out-of-order'] as const satisfies readonly UsageOutcome[]
export type ReplayOutcome = (typeof REPLAY_OUTCOMES)[number]
export const isReplayOutcome = (outcome: UsageOutcome): outcome is ReplayOutcome =>
  (REPLAY_OUTCOMES as readonly UsageOutcome[]).includes(outcome)

const Source = Type.Object({
  address: Type.String({ maxLength: 64 }),
  userAgent: Type.String({ maxLength: 200 }),
  count: Type.Integer({ minimum: 1 }),
  lastAt: Timestamp,
})

export const UsageReport = Type.Object({
  gatewayId: GatewayIdSchema,
  keyId: Type.Unsafe<KeyId>(Type.String({ pattern: KEY_ID_PATTERN })),
  from: Timestamp,
  to: Timestamp,
  outcomes: Type.Array(
    Type.Object({
      outcome: Type.Enum([...USAGE_OUTCOMES]),
      count: Type.Integer({ minimum: 1 }),
      firstAt: Timestamp,
      lastAt: Timestamp,
      sources: Type.Optional(
        Type.Array(Source, { maxItems: 3, description: 'of replayed, stale and out-of-order requests: who sent most of them' }),
      ),
    }),
    { minItems: 1, maxItems: USAGE_OUTCOMES.length },
  ),
  sources: Type.Array(Source, { maxItems: 10, description: 'the busiest sources of this key in this window' }),
  incarnation: Type.Optional(
    Type.String({ minLength: 1, maxLength: 64, description: 'of the gateway, as in its reports on the gateways topic' }),
  ),
  serial: Type.Optional(
    Type.Integer({
      minimum: 1,
      description: 'rises from report to report of an incarnation; one that is sent again keeps its number, and is counted once',
    }),
  ),
})
export type UsageReport = Type.Static<typeof UsageReport>

export const ALERT_KINDS = [
  'second-claim',
  'notification-failed',
  'rotation-held',
  'rolled-back',
  'gateway-silent',
  'straggler',
  'policy-stopped',
  'key-expires',
  'credential-unused',
  'leak',
  'replay',
  'delivery-failed',
] as const
export type AlertKind = (typeof ALERT_KINDS)[number]

export const Alert = Type.Object({
  kind: Type.Enum([...ALERT_KINDS]),
  credentialId: Type.Unsafe<CredentialId>(Type.String({ pattern: CREDENTIAL_ID_PATTERN })),
  rotationId: Type.Optional(Type.Unsafe<RotationId>(Type.String({ pattern: ROTATION_ID_PATTERN }))),
  at: Timestamp,
  detail: Type.String({ maxLength: 500, description: 'for a person: what happened and what to do' }),
})
export type Alert = Type.Static<typeof Alert>
