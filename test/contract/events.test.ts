import {
  type Decoded,
  decodeAlertEvent,
  decodeGatewayEvent,
  decodeKeyEvent,
  decodeLeakEvent,
  decodeUsageEvent,
  ENVIRONMENTS,
  encodeEvent,
  KEY_EVENT_TYPES,
  KEY_STATES,
  type TopicName,
} from '@keyturn/contract'
import { jsonSchemas } from '@keyturn/contract/asyncapi'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { CloudEvent, type CloudEventV1, Kafka } from 'cloudevents'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { vectors } from './vectors.ts'

interface Envelope {
  id: string
  source: string
  type: string
  subject: string
  time: string
  data: Record<string, unknown>
}
const events = vectors<{
  good: { topic: TopicName; key: string; value: Envelope }[]
  bad: { why: string; topic: TopicName; value: unknown }[]
}>('events')

const decode: { [T in TopicName]: (value: string | Uint8Array) => Decoded<unknown> } = {
  keys: decodeKeyEvent,
  gateways: decodeGatewayEvent,
  usage: decodeUsageEvent,
  leaks: decodeLeakEvent,
  alerts: decodeAlertEvent,
}

const ajv = new Ajv2020({ allErrors: true, strict: true, allowUnionTypes: true })
addFormats.default(ajv)
for (const schema of Object.values(jsonSchemas())) ajv.addSchema(schema)
const schemaOf = (name: string): ValidateFunction => {
  const validate = ajv.getSchema(`urn:keyturn:schema:${name}`)
  if (validate === undefined) throw new Error(`no schema ${name}`)
  return validate
}
const envelopes = {
  keys: 'key-event',
  gateways: 'gateway-event',
  usage: 'usage-event',
  leaks: 'leak-event',
  alerts: 'alert-event',
} as const
const payloads = {
  keys: 'key-record',
  gateways: 'gateway-report',
  usage: 'usage-report',
  leaks: 'leak-report',
  alerts: 'alert',
} as const

function expectFits(topic: TopicName, text: string): void {
  const parsed = JSON.parse(text) as Envelope
  for (const [name, value] of [
    [envelopes[topic], parsed],
    [payloads[topic], parsed.data],
  ] as const) {
    const validate = schemaOf(name)
    validate(value)
    expect(validate.errors, name).toBeNull()
  }
  expect(new CloudEvent(parsed as unknown as CloudEventV1<unknown>, true).validate()).toBe(true)
}

describe('event vectors', () => {
  test('there is one of every type', () => {
    const types = new Set(events.good.map(({ value }) => value.type))
    expect([...types].sort()).toEqual(
      [...KEY_EVENT_TYPES, 'keyturn.gateway.report', 'keyturn.usage.report', 'keyturn.leak.report', 'keyturn.alert'].sort(),
    )
  })

  test.each(events.good)(
    '$value.type $value.id is written, read, and fits the schemas and CloudEvents',
    ({ topic, key, value }) => {
      const { id, type, source, subject, time, data } = value
      const text = encodeEvent({ id, type, source, subject, time: new Date(time), data })
      expect(JSON.parse(text)).toEqual(value)
      expect(decode[topic](text)).toEqual({ ok: true, event: value })
      expect(decode[topic](Buffer.from(text))).toEqual({ ok: true, event: value })
      expect(subject).toBe(key)
      expectFits(topic, text)
    },
  )

  test.each(events.bad)('refused by decoder and schema alike: $why', ({ topic, value }) => {
    expect(decode[topic](JSON.stringify(value))).toEqual({ ok: false, flaw: 'not-an-event' })
    expect(schemaOf(envelopes[topic])(value)).toBe(false)
  })
})

describe('decoding', () => {
  test.each(['', 'null,', '{', Buffer.from([0xff, 0xfe])])('what is not JSON is said to be so: %j', (value) => {
    expect(decodeKeyEvent(value)).toEqual({ ok: false, flaw: 'not-json' })
  })

  test.each(['null', '[]', '"keyturn.key.introduced"', '{}'])('JSON that is no event: %s', (value) => {
    expect(decodeKeyEvent(value)).toEqual({ ok: false, flaw: 'not-an-event' })
  })

  test('fields that a later version adds are ignored', () => {
    const [first] = events.good
    const later = { ...first?.value, dataschema: 'urn:example', data: { ...first?.value.data, colour: 'blue' } }
    expect(decodeKeyEvent(JSON.stringify(later)).ok).toBe(true)
  })

  test('an event has an id of its own when none is given', () => {
    const event = { type: 'keyturn.alert', source: '/keyturn/worker', subject: 's', time: new Date(0), data: {} }
    const ids = [encodeEvent(event), encodeEvent(event)].map((text) => (JSON.parse(text) as Envelope).id)
    expect(new Set(ids).size).toBe(2)
  })
})

describe('event properties', () => {
  const id = (prefix: string) => fc.stringMatching(/^[0-9A-Za-z]{16}$/).map((rest) => prefix + rest)
  const time = fc
    .date({ min: new Date('0001-01-01T00:00:00Z'), max: new Date('9999-12-31T23:59:59Z'), noInvalidDate: true })
    .map((date) => date.toISOString())
  const base64 = (length: number) =>
    fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => Buffer.from(bytes).toString('base64'))
  const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined })
  const record = fc.record({
    keyId: id(''),
    credentialId: id('crd_'),
    clientId: id('cli_'),
    environment: fc.constantFrom(...ENVIRONMENTS),
    scopes: fc.array(fc.stringMatching(/^[a-z]{1,5}:(read|write|\*)$/), { maxLength: 5 }),
    version: fc.integer({ min: 1 }),
    state: fc.constantFrom(...KEY_STATES),
    revision: fc.integer({ min: 1 }),
    verifier: fc.oneof(
      fc.record({ kind: fc.constant('bearer'), sha256: base64(32) }),
      fc.record({
        kind: fc.constant('hmac-sha256'),
        kekId: fc.stringMatching(/^[0-9a-f]{8}$/),
        nonce: base64(12),
        ciphertext: base64(100),
        revision: fc.integer({ min: 1 }),
      }),
      fc.record({ kind: fc.constant('ed25519'), publicKey: base64(32) }),
      fc.constant({ kind: 'ed25519' }),
    ),
    notBefore: time,
    expiresAt: optional(time),
    sunsetAt: optional(time),
    successor: optional(fc.integer({ min: 2 })),
  })

  test('any key record is written, read back, and fits the schemas and CloudEvents', () => {
    fc.assert(
      fc.property(record, fc.constantFrom(...KEY_EVENT_TYPES), (data, type) => {
        const text = encodeEvent({ type, source: '/keyturn/worker', subject: data.keyId, time: new Date(0), data })
        const decoded = decodeKeyEvent(text)
        expect(decoded.ok && decoded.event.data).toEqual(JSON.parse(JSON.stringify(data)))
        expectFits('keys', text)
      }),
    )
  })

  test('the CloudEvents library reads the same event from Kafka', () => {
    const [first] = events.good
    if (first === undefined) throw new Error('no vectors')
    const headers = { 'content-type': 'application/cloudevents+json; charset=utf-8' }
    const value = JSON.stringify(first.value)
    const read = Kafka.toEvent({ headers, value, body: value } as Parameters<typeof Kafka.toEvent>[0])
    expect((read as CloudEvent).data).toEqual(first.value.data)
  })
})
