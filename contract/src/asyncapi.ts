/** The schemas as JSON Schema documents, and the AsyncAPI document of the topics. `npm run generate` writes both to files. */
import type { TSchema } from 'typebox'
import {
  ALERT_TYPE,
  AlertEvent,
  CLOUDEVENTS_MEDIA_TYPE,
  GATEWAY_REPORT_TYPE,
  GatewayEvent,
  KeyEvent,
  LEAK_REPORT_TYPE,
  LeakEvent,
  USAGE_REPORT_TYPE,
  UsageEvent,
} from './events.ts'
import { CREDENTIAL_ID_PATTERN, GATEWAY_ID_PATTERN, KEY_ID_PATTERN } from './ids.ts'
import { KeyRecord } from './key-record.ts'
import { LeakReport, TOKEN_SHA256_HEX_PATTERN } from './leak-report.ts'
import { PolicyFile } from './policy.ts'
import { Alert, GatewayReport, UsageReport } from './reports.ts'
import { TOPIC_SETTINGS, TOPICS, type TopicName } from './topics.ts'

type Json = { readonly [name: string]: unknown }

/** Every published schema by its file name (without `.json`) and what it is. */
const SCHEMAS: { readonly [name: string]: readonly [title: string, schema: TSchema] } = {
  'key-record': ['The whole state of one key', KeyRecord],
  'key-event': ['An event on the keys topic', KeyEvent],
  'gateway-report': ['Where a gateway stands', GatewayReport],
  'gateway-event': ['An event on the gateways topic', GatewayEvent],
  'usage-report': ['Who used one key, at one gateway, in one window', UsageReport],
  'usage-event': ['An event on the usage topic', UsageEvent],
  'leak-report': ['Word from outside that a token is exposed', LeakReport],
  'leak-event': ['An event on the leaks topic', LeakEvent],
  alert: ['What people should hear', Alert],
  'alert-event': ['An event on the alerts topic', AlertEvent],
  policies: ['The file policies.yaml', PolicyFile],
}

/** Only what JSON can say: TypeBox keeps notes of its own on a schema. */
const plain = (schema: TSchema): Json => JSON.parse(JSON.stringify(schema)) as Json

/** JSON Schema documents (draft 2020-12) by file name without `.json`. Each stands alone. */
export const jsonSchemas = (): { readonly [name: string]: Json } =>
  Object.fromEntries(
    Object.entries(SCHEMAS).map(([name, [title, schema]]) => [
      name,
      { $schema: 'https://json-schema.org/draft/2020-12/schema', $id: `urn:keyturn:schema:${name}`, title, ...plain(schema) },
    ]),
  )

interface Channel {
  readonly message: string
  readonly schema: string
  readonly summary: string
  /** What the control plane does with it. */
  readonly action: 'send' | 'receive'
  readonly key: Json
  readonly about: string
}

const CHANNELS: { readonly [T in TopicName]: Channel } = {
  keys: {
    message: 'KeyEvent',
    schema: 'key-event',
    summary: 'The whole state of a key, after each change; the highest revision wins',
    action: 'send',
    key: { type: 'string', pattern: KEY_ID_PATTERN, description: 'the key id' },
    about:
      'Written by the activities after the registry has committed. Compacted: read from its start, it is the whole registry of verifiers.',
  },
  gateways: {
    message: 'GatewayReport',
    schema: 'gateway-event',
    summary: `Liveness and watermarks of one gateway (\`${GATEWAY_REPORT_TYPE}\`)`,
    action: 'receive',
    key: { type: 'string', pattern: GATEWAY_ID_PATTERN, description: 'the gateway id' },
    about:
      'Written by each gateway a few milliseconds after it has applied something, and every few seconds. A gateway declared gone is a tombstone.',
  },
  usage: {
    message: 'UsageReport',
    schema: 'usage-event',
    summary: `Counts per key and window (\`${USAGE_REPORT_TYPE}\`)`,
    action: 'receive',
    key: { type: 'string', pattern: KEY_ID_PATTERN, description: 'the key id' },
    about: 'Written by each gateway for the keys that were shown to it.',
  },
  leaks: {
    message: 'LeakReport',
    schema: 'leak-event',
    summary: `Word that a token is exposed (\`${LEAK_REPORT_TYPE}\`)`,
    action: 'receive',
    key: { type: 'string', pattern: TOKEN_SHA256_HEX_PATTERN, description: 'SHA-256 of the token, in hex' },
    about: 'Written by anyone who finds tokens. Send the hash; a token sent as it is stays in the topic for its retention.',
  },
  alerts: {
    message: 'Alert',
    schema: 'alert-event',
    summary: `What people and SIEMs act on (\`${ALERT_TYPE}\`)`,
    action: 'send',
    key: { type: 'string', pattern: CREDENTIAL_ID_PATTERN, description: 'the credential id' },
    about: 'Written by the activities and the usage collector.',
  },
}

/** Topics whose messages may be a null value: the thing named by the message key is gone. */
const TOMBSTONES: readonly TopicName[] = ['keys', 'gateways']

const names = Object.keys(CHANNELS) as TopicName[]
const ref = (...path: readonly string[]): Json => ({ $ref: `#/${path.join('/')}` })
const perTopic = <T>(make: (topic: TopicName, channel: Channel) => T): { readonly [topic: string]: T } =>
  Object.fromEntries(names.map((topic) => [topic, make(topic, CHANNELS[topic])]))

const messageNames = (topic: TopicName): readonly string[] => [
  CHANNELS[topic].message,
  ...(TOMBSTONES.includes(topic) ? [`${CHANNELS[topic].message}Tombstone`] : []),
]

const topicConfiguration = (topic: TopicName): Json => {
  const { 'cleanup.policy': cleanup, 'retention.ms': retention } = TOPIC_SETTINGS[topic].config
  return { 'cleanup.policy': cleanup?.split(','), ...(retention === undefined ? {} : { 'retention.ms': Number(retention) }) }
}

const messages = (topic: TopicName, channel: Channel): readonly (readonly [string, Json])[] => {
  const bindings = { kafka: { key: channel.key, bindingVersion: '0.5.0' } }
  const event: Json = {
    name: channel.message,
    summary: channel.summary,
    contentType: 'application/cloudevents+json',
    headers: {
      type: 'object',
      required: ['content-type'],
      properties: { 'content-type': { type: 'string', const: CLOUDEVENTS_MEDIA_TYPE } },
    },
    payload: ref('components', 'schemas', channel.schema),
    bindings,
  }
  const gone: Json = { name: `${channel.message}Tombstone`, summary: 'No value: it is gone', payload: { type: 'null' }, bindings }
  return messageNames(topic).map((name) => [name, name === channel.message ? event : gone] as const)
}

/** The AsyncAPI 3.0 document, seen from the control plane: what it sends gateways receive, and the other way round. */
export const asyncApiDocument = (version: string): Json => ({
  asyncapi: '3.0.0',
  id: 'urn:keyturn:topics',
  info: {
    title: 'Keyturn',
    version,
    description:
      'The Kafka topics between the control plane and the gateways, seen from the control plane. Messages are CloudEvents 1.0 in structured mode. A deployment may put a prefix before every address.',
    license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
  },
  defaultContentType: 'application/cloudevents+json',
  channels: perTopic((topic, channel) => ({
    address: TOPICS[topic],
    description: channel.about,
    messages: Object.fromEntries(messageNames(topic).map((name) => [name, ref('components', 'messages', name)])),
    bindings: {
      kafka: {
        topic: TOPICS[topic],
        partitions: TOPIC_SETTINGS[topic].partitions,
        topicConfiguration: topicConfiguration(topic),
        bindingVersion: '0.5.0',
      },
    },
  })),
  operations: perTopic((topic, channel) => ({
    action: channel.action,
    channel: ref('channels', topic),
    summary: channel.summary,
    messages: messageNames(topic).map((name) => ref('channels', topic, 'messages', name)),
  })),
  components: {
    messages: Object.fromEntries(names.flatMap((topic) => messages(topic, CHANNELS[topic]))),
    schemas: Object.fromEntries(
      names.map((topic) => {
        const [title, schema] = SCHEMAS[CHANNELS[topic].schema] ?? []
        if (schema === undefined) throw new Error(`no schema for the topic ${topic}`)
        return [CHANNELS[topic].schema, { title, ...plain(schema) }]
      }),
    ),
  },
})
