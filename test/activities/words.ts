/** What gateways say, word for word, with nothing running behind it. */
import {
  encodeEvent,
  GATEWAY_REPORT_TYPE,
  type GatewayId,
  type GatewayReport,
  type KeyId,
  type TopicNames,
  USAGE_REPORT_TYPE,
  type UsageReport,
} from '@keyturn/contract'
import type { Message } from 'kafkajs'
import type { Publisher } from '../../activities/kafka.ts'

export interface Words {
  /** A report on the gateways topic. @returns what it says of its time */
  say(gatewayId: string, report?: Partial<GatewayReport>): Promise<string>
  /** A gateway's own goodbye. */
  leave(gatewayId: string): Promise<unknown>
  /** Reports on the usage topic, in this order. */
  tell(...reports: readonly UsageReport[]): Promise<unknown>
}

export const createWords = (publisher: Publisher, topics: TopicNames): Words => ({
  async say(gatewayId, report = {}) {
    const time = new Date()
    const data: GatewayReport = {
      gatewayId: gatewayId as GatewayId,
      incarnation: '1',
      region: 'test',
      at: time.toISOString(),
      positions: {},
      keys: 0,
      freshness: 'fresh',
      ...report,
    }
    const value = encodeEvent({ type: GATEWAY_REPORT_TYPE, source: '/test', subject: gatewayId, time, data })
    await publisher.send(topics.gateways, [{ key: gatewayId, value }])
    return data.at
  },
  leave: (gatewayId) => publisher.send(topics.gateways, [{ key: gatewayId, value: null }]),
  tell: (...reports) => publisher.send(topics.usage, reports.map(usageMessage)),
})

export const usageMessage = (data: UsageReport): Message => ({
  key: data.keyId,
  value: encodeEvent({ type: USAGE_REPORT_TYPE, source: '/test', subject: data.keyId, time: new Date(), data }),
})

/** Accepted requests with a key in one window of a gateway, at one moment. */
export const accepted = (
  gatewayId: string,
  keyId: KeyId,
  at: Date,
  more: Partial<UsageReport> & { count?: number } = {},
): UsageReport => {
  const { count = 1, ...fields } = more
  const time = at.toISOString()
  return {
    gatewayId: gatewayId as GatewayId,
    keyId,
    from: time,
    to: time,
    outcomes: [{ outcome: 'accepted', count, firstAt: time, lastAt: time }],
    sources: [],
    ...fields,
  }
}
