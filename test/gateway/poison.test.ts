import { encodeEvent } from '@keyturn/contract'
import { type Message, Partitioners } from 'kafkajs'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { getKey, toKeyRecord } from '../../registry/keys.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess } from '../support/processes.ts'
import { kafkaClient } from '../support/servers.ts'
import { sha256Of } from '../support/shown.ts'

const PATIENCE_MS = 60_000
vi.setConfig({ testTimeout: 3 * 60_000, hookTimeout: 3 * 60_000 })

let house: House
let gateway: GatewayProcess
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
  gateway = await startGatewayProcess(house, 'gw-poisoned', { KEYTURN_LOG_LEVEL: 'info' })
})
afterAll(async () => {
  await gateway.stop()
  await house.close()
})

async function skipped(): Promise<Record<string, number>> {
  const text = await (await fetch(`${gateway.url}/metrics`)).text()
  const lines = text.matchAll(/^keyturn_gateway_messages_skipped_total\{reason="([^"]+)"\} (\d+)$/gm)
  return Object.fromEntries([...lines].map(([, reason, count]) => [reason, Number(count)]))
}

test('poison on the keys topic is counted by kind, logged without its content and passed over; receipts are completed behind it', async () => {
  const good = await house.credential()
  const other = await house.credential()
  const row = await getKey(house.db, good.keyId)
  if (row === undefined) throw new Error('there is no key')
  const record = toKeyRecord(row)
  const { verifier: _, ...incomplete } = record
  const event = (data: unknown, type = 'keyturn.key.introduced', subject: string = good.keyId) =>
    encodeEvent({ type, source: '/test', subject, time: new Date(), data })
  const secret = 'thisIsNoRealSecretButItLooksLikeOne'
  const key = good.keyId
  const poison: Record<string, Message[]> = {
    'not-json': [
      { key, value: `{"token": ${secret}` },
      { key, value: '' },
      { key, value: Buffer.from([0, 255, 254, 253, 10, 0]) },
      { key, value: 'x'.repeat(900_000) },
    ],
    'not-an-event': [
      { key, value: '[]' },
      { key, value: 'null' },
      { key, value: event(record, 'keyturn.key.forgotten') },
      { key, value: event(incomplete) },
      { key, value: event({ ...record, state: secret }) },
      { key, value: event({ ...record, revision: 0 }) },
      { key, value: JSON.stringify({ padding: 'x'.repeat(900_000) }) },
    ],
    'wrong-key': [
      { key: other.keyId, value: event(record) },
      { key, value: event({ ...record, revision: 9 }, 'keyturn.key.suspended', other.keyId) },
      { key: secret, value: null },
      { key: '', value: event(record) },
    ],
    'same-revision': [{ key, value: event({ ...record, state: 'suspended' }) }],
  }
  const producer = kafkaClient().producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  for (const messages of Object.values(poison)) {
    for (const message of messages) await producer.send({ topic: house.config.topics.keys, messages: [message] })
  }
  // One without a key the broker itself does not take, as the topic is compacted.
  await expect(producer.send({ topic: house.config.topics.keys, messages: [{ value: event(record) }] })).rejects.toThrow()
  await producer.disconnect()

  const expected = Object.fromEntries(Object.entries(poison).map(([reason, messages]) => [reason, messages.length]))
  await eventually(
    async () => {
      const counts = await skipped()
      return Object.entries(expected).every(([reason, count]) => counts[reason] === count)
    },
    'every message is counted by its kind',
    PATIENCE_MS,
  )
  // It throws when the gateway does not confirm the new key.
  const next = await house.credential()
  expect(await Promise.all([good, other, next].map(({ token }) => gateway.call(token)))).toEqual([502, 502, 502])
  expect(gateway.child.exitCode).toBeNull()
  expect(gateway.output()).toContain('message on the keys topic skipped')
  for (const content of [secret, 'xxxxx', sha256Of(record)]) expect(gateway.output()).not.toContain(content)
})
