import { decodeAlertEvent } from '@keyturn/contract'
import pino from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createAlerts } from '../../activities/alerts.ts'
import { createKafka } from '../../activities/kafka.ts'
import { proposeUnusedCredentials, warnOfExpiringKeys } from '../../activities/neglect.ts'
import { applyPolicies } from '../../registry/policies.ts'
import { setCompleteThrough } from '../../registry/usage.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { readTopic } from '../support/topics.ts'

const DAY = 86_400_000

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
})
afterAll(() => house.close())

test('people are told of a key that expires and of a credential that nobody uses, each once', async () => {
  const policies = [{ name: 'short-lived', all: true as const, period: '30d', overlap: '3d', expiry: '30d' }]
  await applyPolicies(house.db, { policies, order: 'file', prune: false, at: new Date(), actor: 'test' })
  const { credentialId, keyId } = await house.credential()
  const alerts = createAlerts(
    createKafka(house.config.kafkaBrokers, 'test', pino({ level: 'silent' })),
    house.config.topics,
    '/keyturn/test',
  )
  const soon = new Date(Date.now() + 28 * DAY)
  const later = new Date(Date.now() + 100 * DAY)
  await setCompleteThrough(house.db, later, [])
  expect([await warnOfExpiringKeys(house.db, alerts, soon), await warnOfExpiringKeys(house.db, alerts, soon)]).toEqual([1, 0])
  expect([
    await proposeUnusedCredentials(house.db, alerts, later),
    await proposeUnusedCredentials(house.db, alerts, later),
  ]).toEqual([1, 0])
  await alerts.stop()

  const told = await eventually(async () => {
    const found = (await readTopic(house.config.topics.alerts)).flatMap(({ value = '' }) => {
      const decoded = decodeAlertEvent(value)
      return decoded.ok ? [decoded.event.data] : []
    })
    return found.length >= 2 && found
  }, 'the alerts')
  expect(told.map((alert) => [alert.kind, alert.credentialId])).toEqual([
    ['key-expires', credentialId],
    ['credential-unused', credentialId],
  ])
  expect(told[0]?.detail).toContain(`key ${keyId} expires in `)
  expect(told[1]?.detail).toContain('has never been used')
})
