/** The Kafka topics. A deployment that shares a cluster may put a prefix before each. */
export const TOPICS = {
  keys: 'keyturn.keys.v1',
  gateways: 'keyturn.gateways.v1',
  usage: 'keyturn.usage.v1',
  leaks: 'keyturn.leaks.v1',
  alerts: 'keyturn.alerts.v1',
} as const
export type TopicName = keyof typeof TOPICS

const DAY_MS = 86_400_000

/** How each topic is made. `partitions` is the default; the gateways read whatever they find. */
export const TOPIC_SETTINGS: {
  readonly [T in TopicName]: { readonly partitions: number; readonly config: Readonly<Record<string, string>> }
} = {
  keys: { partitions: 3, config: { 'cleanup.policy': 'compact' } },
  gateways: { partitions: 1, config: { 'cleanup.policy': 'compact' } },
  usage: { partitions: 3, config: { 'cleanup.policy': 'delete', 'retention.ms': String(7 * DAY_MS) } },
  leaks: { partitions: 1, config: { 'cleanup.policy': 'delete', 'retention.ms': String(30 * DAY_MS) } },
  alerts: { partitions: 1, config: { 'cleanup.policy': 'delete', 'retention.ms': String(30 * DAY_MS) } },
}

export type TopicNames = { readonly [T in TopicName]: string }

export const topicNames = (prefix = ''): TopicNames => ({
  keys: prefix + TOPICS.keys,
  gateways: prefix + TOPICS.gateways,
  usage: prefix + TOPICS.usage,
  leaks: prefix + TOPICS.leaks,
  alerts: prefix + TOPICS.alerts,
})
