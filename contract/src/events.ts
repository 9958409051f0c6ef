/** Event envelopes: CloudEvents 1.0, structured mode, JSON. */
import { randomUUID } from 'node:crypto'
import Type from 'typebox'
import { Compile, type Validator } from 'typebox/compile'
import { KeyRecord, Timestamp } from './key-record.ts'
import { LeakReport } from './leak-report.ts'
import { Alert, GatewayReport, UsageReport } from './reports.ts'

export const KEY_EVENT_TYPES = [
  'keyturn.key.introduced',
  'keyturn.key.deprecated',
  'keyturn.key.deactivated',
  'keyturn.key.compromised',
  'keyturn.key.suspended',
  'keyturn.key.reinstated',
  'keyturn.key.updated',
  'keyturn.key.destroyed',
] as const
export type KeyEventType = (typeof KEY_EVENT_TYPES)[number]

export const GATEWAY_REPORT_TYPE = 'keyturn.gateway.report'
export const USAGE_REPORT_TYPE = 'keyturn.usage.report'
export const LEAK_REPORT_TYPE = 'keyturn.leak.report'
export const ALERT_TYPE = 'keyturn.alert'

/** The media type of a message in structured mode; sent as the Kafka header `content-type`. */
export const CLOUDEVENTS_MEDIA_TYPE = 'application/cloudevents+json; charset=utf-8'

const envelope = <T extends Type.TSchema, N extends string>(types: readonly [N, ...N[]], data: T) =>
  Type.Object({
    specversion: Type.Literal('1.0'),
    id: Type.String({ minLength: 1 }),
    source: Type.String({ minLength: 1 }),
    type: Type.Enum([...types] as [N, ...N[]]),
    subject: Type.String({ minLength: 1 }),
    time: Timestamp,
    datacontenttype: Type.Literal('application/json'),
    data,
  })

export const KeyEvent = envelope(KEY_EVENT_TYPES, KeyRecord)
export type KeyEvent = Type.Static<typeof KeyEvent>
export const GatewayEvent = envelope([GATEWAY_REPORT_TYPE], GatewayReport)
export type GatewayEvent = Type.Static<typeof GatewayEvent>
export const UsageEvent = envelope([USAGE_REPORT_TYPE], UsageReport)
export type UsageEvent = Type.Static<typeof UsageEvent>
export const LeakEvent = envelope([LEAK_REPORT_TYPE], LeakReport)
export type LeakEvent = Type.Static<typeof LeakEvent>
export const AlertEvent = envelope([ALERT_TYPE], Alert)
export type AlertEvent = Type.Static<typeof AlertEvent>

export interface EventInput<N extends string, D> {
  readonly id?: string
  readonly type: N
  /** Which process says it: `/keyturn/worker`, `/keyturn/gateways/gw-1`. */
  readonly source: string
  /** What it is about: the message key. */
  readonly subject: string
  readonly time: Date
  readonly data: D
}

/** One event as the bytes of a Kafka message. */
export function encodeEvent<N extends string, D>(event: EventInput<N, D>): string {
  return JSON.stringify({
    specversion: '1.0',
    id: event.id ?? randomUUID(),
    source: event.source,
    type: event.type,
    subject: event.subject,
    time: event.time.toISOString(),
    datacontenttype: 'application/json',
    data: event.data,
  })
}

/** Why a message was not understood. Such a message is logged, counted and skipped, never a crash. */
export type EventFlaw = 'not-json' | 'not-an-event'
export type Decoded<E> = { readonly ok: true; readonly event: E } | { readonly ok: false; readonly flaw: EventFlaw }

const decoder =
  <E>(validator: Validator) =>
  (value: Uint8Array | string): Decoded<E> => {
    let parsed: unknown
    try {
      parsed = JSON.parse(
        typeof value === 'string' ? value : Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('utf8'),
      )
    } catch {
      return { ok: false, flaw: 'not-json' }
    }
    return validator.Check(parsed) ? { ok: true, event: parsed as E } : { ok: false, flaw: 'not-an-event' }
  }

export const decodeKeyEvent = decoder<KeyEvent>(Compile(KeyEvent))
export const decodeGatewayEvent = decoder<GatewayEvent>(Compile(GatewayEvent))
export const decodeUsageEvent = decoder<UsageEvent>(Compile(UsageEvent))
export const decodeLeakEvent = decoder<LeakEvent>(Compile(LeakEvent))
export const decodeAlertEvent = decoder<AlertEvent>(Compile(AlertEvent))
