/** The leaks topic, from a message to the closed incident. */
import { createHash } from 'node:crypto'
import { Writable } from 'node:stream'
import { encodeEvent, LEAK_REPORT_TYPE } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createKafka, createPublisher, type Publisher } from '../../activities/kafka.ts'
import { createLog } from '../../infra/log.ts'
import { sightingsOf } from '../../registry/leaks.ts'
import { type RunningListener, startLeakListener } from '../../workers/leak-listener.ts'
import { eventually, type House, testToken } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { closed, leakOf, type ReportAnswer } from '../support/reporting.ts'

let house: House
let listener: RunningListener
let publisher: Publisher
let logged = ''
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
  const destination = new Writable({
    write(chunk: Buffer, _encoding, done) {
      logged += chunk.toString('utf8')
      done()
    },
  })
  listener = await startLeakListener(house.config, createLog('leak-listener', 'debug', destination))
  publisher = createPublisher(createKafka(house.config.kafkaBrokers, 'test', house.log))
})
afterAll(async () => {
  await publisher.stop()
  await listener.stop()
  await house.close()
})

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
const message = (data: object): { key: string; value: string } => {
  const subject = 'tokenSha256' in data ? String(data.tokenSha256) : 'x'
  return {
    key: subject,
    value: encodeEvent({ type: LEAK_REPORT_TYPE, source: '/acme/scanner', subject, time: new Date(), data }),
  }
}
const send = (...messages: { key: string; value: string | null }[]) => publisher.send(house.config.topics.leaks, messages)
const leakOfToken = (token: string) =>
  eventually(async () => {
    const [row] = await house.db.query<{ leak_id: ReportAnswer['leakId'] }>('select leak_id from leaks where token_hash = $1', [
      `sha256:${sha256(token)}`,
    ])
    return row?.leak_id
  }, 'the incident')

test('a hash, and a token that is hashed on arrival, are taken in and answered', async () => {
  const one = await house.credential(['trade:write'])
  const two = await house.credential(['trade:write'])
  await send(
    message({ tokenSha256: sha256(one.token), source: 'acme-scanner', url: 'https://example.com/1', at: '2026-01-01T00:00:00Z' }),
    message({ token: two.token, source: 'acme-scanner', url: `https://example.com/?k=${two.token}` }),
  )
  for (const { token, credentialId } of [one, two]) {
    const leakId = await leakOfToken(token)
    await closed(house, leakId, 90_000)
    expect((await house.keys(credentialId)).map(({ state }) => state)).toEqual(['compromised', 'active'])
    expect(await sightingsOf(house.db, leakId, 5)).toMatchObject([{ source: 'acme-scanner', reporter: 'kafka' }])
  }
  expect(logged).not.toContain(two.token.split('_')[3])
})

test('what makes no sense is counted and skipped, without its content; what comes after it is taken', async () => {
  const token = testToken()
  const before = { ...listener.counts }
  await send(
    { key: 'x', value: `not json ${token}` },
    { key: 'x', value: null },
    { key: 'x', value: '[]' },
    message({ source: 'nothing to say' }),
    message({ token, tokenSha256: sha256(token), source: 'both' }),
    { key: 'x', value: encodeEvent({ type: 'keyturn.alert', source: '/x', subject: 'x', time: new Date(), data: {} }) },
    message({ token, source: 'sensible' }),
  )
  const leakId = await leakOfToken(token)
  expect(await leakOf(house, leakId)).toMatchObject({ matched: 'unknown', status: 'closed' })
  expect(await sightingsOf(house.db, leakId, 5)).toMatchObject([{ source: 'sensible' }])
  await eventually(() => listener.counts.reports === before.reports + 1, 'the count')
  expect(listener.counts.skipped - before.skipped).toBe(6)
  expect(logged.match(/skipped a leak report that makes no sense/g)).toHaveLength(6)
  expect(logged).not.toContain(token)
})

test('a message that is read twice is one sighting, and no second answer', async () => {
  const { token, credentialId } = await house.credential(['trade:write'])
  const report = message({ tokenSha256: sha256(token), source: 'acme-scanner' })
  await send(report, report)
  const leakId = await leakOfToken(token)
  await closed(house, leakId, 90_000)
  await send(report)
  await eventually(async () => (await sightingsOf(house.db, leakId, 5))[0]?.times === 3, 'the third count')
  expect(await house.db.query('select from rotations where credential_id = $1', [credentialId])).toHaveLength(1)
})
