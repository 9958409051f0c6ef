/** What a client's word is worth. */
import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'
import { noteDone } from '../../registry/done.ts'
import { deactivateKey } from '../../registry/keys.ts'
import { enterStage } from '../../registry/rotations.ts'
import { readEvidence, rotationsToTell, setCompleteThrough } from '../../registry/usage.ts'
import {
  at,
  collect,
  DAY,
  introduce,
  makeCredential,
  monitored,
  open,
  openTestDatabase,
  type TestRotation,
  usageOf,
} from './world.ts'

const S = 1_000
const OLD_LAST = 100 * S
const NEW_FIRST = 70 * S
/** Both keys were used for so long. */
const SWITCHING = OLD_LAST - NEW_FIRST
const SAID = 110 * S
const BELIEVED = OLD_LAST + SWITCHING

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())
beforeEach(() => setCompleteThrough(db, undefined, []))

const from = (n: number, ms: number) => [{ address: `192.0.2.${n}`, userAgent: 'feed/1', count: 1, lastAt: at(ms).toISOString() }]
const use = (keyId: KeyId, ms: number, n = 1, first = ms) =>
  collect(db, usageOf(keyId, 'accepted', { first: at(first), last: at(ms) }, from(n, ms)))
const through = (ms: number) => setCompleteThrough(db, at(ms), [])

/** Two programs: both have used the old key while the new one was in use, and only the new one since. */
async function switchedOver(): Promise<TestRotation> {
  const rotation = await monitored(db, { quietPeriodMs: DAY })
  await use(rotation.keyId, OLD_LAST - 1, 1)
  await use(rotation.keyId, OLD_LAST, 2)
  await use(rotation.newKeyId, NEW_FIRST, 1)
  await use(rotation.newKeyId, OLD_LAST + 1, 1)
  await use(rotation.newKeyId, OLD_LAST + 1, 2)
  await through(SAID)
  return rotation
}
const say = ({ rotationId, newKeyId }: TestRotation, ms = SAID, keyId = newKeyId) =>
  noteDone(db, { rotationId, keyId, at: at(ms), from: '192.0.2.1 feed/1' })

/** The three places that judge the evidence: they must say the same. */
async function verdicts({ rotationId, keyId, by }: TestRotation): Promise<boolean> {
  const read = (await readEvidence(db, rotationId)).sufficient
  const told = (await rotationsToTell(db)).some((one) => one.rotationId === rotationId && one.fact === 'old-key-quiet')
  const { deactivated } = await deactivateKey(db, { ...by, keyId, unless: 'used' })
  expect([told, deactivated]).toEqual([read, read])
  return read
}

describe('G2: a client says that it is done', () => {
  test('G2: then the old key goes when it has been quiet for as long as the switch-over took, and not a moment before', async () => {
    const rotation = await switchedOver()
    expect(await say(rotation)).toEqual({ outcome: 'noted', stage: 'monitoring', doneAt: at(SAID) })
    expect((await readEvidence(db, rotation.rotationId)).doneAt).toBe(at(SAID).toISOString())
    await through(BELIEVED - 1)
    expect(await verdicts(rotation)).toBe(false)
    await through(BELIEVED)
    expect(await verdicts(rotation)).toBe(true)
  })

  test('G2: ten seconds at least', async () => {
    const rotation = await monitored(db, { quietPeriodMs: DAY })
    await use(rotation.keyId, OLD_LAST)
    await use(rotation.newKeyId, OLD_LAST + 1)
    await through(OLD_LAST + 2)
    await say(rotation, OLD_LAST + 2)
    await through(OLD_LAST + 10 * S - 1)
    expect(await verdicts(rotation)).toBe(false)
    await through(OLD_LAST + 10 * S)
    expect(await verdicts(rotation)).toBe(true)
  })

  test('G2: without its word the quiet period is as long as it was', async () => {
    const rotation = await switchedOver()
    await through(OLD_LAST + DAY - 1)
    expect(await verdicts(rotation)).toBe(false)
  })

  test('G2: use of the old key after it makes it void; it can be said again', async () => {
    const rotation = await switchedOver()
    await say(rotation)
    await use(rotation.keyId, SAID + 1, 1)
    await use(rotation.newKeyId, SAID + 2, 1)
    await through(SAID + DAY)
    expect(await verdicts(rotation)).toBe(false)
    expect(await readEvidence(db, rotation.rotationId)).not.toHaveProperty('doneAt')
    await through(SAID + DAY - 1)
    await say(rotation, SAID + DAY - 1)
    expect(await verdicts(rotation)).toBe(true)
  })

  test('G2: as long as a program uses the old key it is refused, and the program named', async () => {
    const rotation = await switchedOver()
    await use(rotation.keyId, OLD_LAST + 2, 3)
    expect(await say(rotation)).toEqual({
      outcome: 'still-in-use',
      by: [{ address: '192.0.2.3', userAgent: 'feed/1', count: 1, lastAt: at(OLD_LAST + 2).toISOString() }],
    })
    await through(DAY)
    expect(await verdicts(rotation)).toBe(false)
    await use(rotation.newKeyId, OLD_LAST + 3, 3)
    expect((await say(rotation)).outcome).toBe('noted')
  })

  test('G2: a program that is heard of after the word, with a use before it, holds the old key', async () => {
    const rotation = await switchedOver()
    await say(rotation)
    await use(rotation.keyId, OLD_LAST - 2, 9)
    await through(SAID + DAY / 2)
    expect(await verdicts(rotation)).toBe(false)
  })

  test('G2: who uses it is not known: it is refused', async () => {
    const rotation = await switchedOver()
    await collect(db, usageOf(rotation.keyId, 'accepted', { last: at(OLD_LAST + 2) }))
    expect(await say(rotation)).toMatchObject({ outcome: 'still-in-use', by: [{ address: 'unknown' }] })
  })

  test('G2: a program that used the old key before anybody used the new one is nothing against it', async () => {
    const rotation = await monitored(db, { quietPeriodMs: DAY })
    await use(rotation.keyId, 5 * S, 1)
    await use(rotation.keyId, 6 * S, 2)
    await use(rotation.newKeyId, 10 * S, 1)
    await through(SAID)
    expect((await say(rotation)).outcome).toBe('noted')
    expect(await verdicts(rotation)).toBe(true)
  })

  test('G2: up to the moment of the word everything has to be known, and while a gateway is silent nothing is', async () => {
    const rotation = await switchedOver()
    await through(SAID - 1)
    expect(await say(rotation)).toEqual({ outcome: 'unknown', silentGateways: [] })
    await setCompleteThrough(db, undefined, ['gw-2'])
    expect(await say(rotation)).toEqual({ outcome: 'unknown', silentGateways: ['gw-2'] })
    await through(SAID)
    await say(rotation)
    await setCompleteThrough(db, undefined, ['gw-2'])
    expect(await verdicts(rotation)).toBe(false)
  })

  test('G2: a gateway that was lost with its counts after the word makes it void', async () => {
    const own = await openTestDatabase()
    try {
      const rotation = await monitored(own, { quietPeriodMs: DAY })
      const report = usageOf(rotation.newKeyId, 'accepted', { last: at(1) }, from(1, 1))
      await collect(own, report)
      await setCompleteThrough(own, at(SAID), [])
      await noteDone(own, { rotationId: rotation.rotationId, keyId: rotation.newKeyId, at: at(SAID), from: 'x' })
      await setCompleteThrough(own, at(SAID + DAY / 2), [], at(SAID + 1))
      expect((await readEvidence(own, rotation.rotationId)).sufficient).toBe(false)
    } finally {
      await own.close()
    }
  })

  test('G1: while the new key has not been used, or the API refuses it, it is refused', async () => {
    const rotation = await monitored(db)
    await through(SAID)
    expect((await say(rotation)).outcome).toBe('not-used')
    await use(rotation.newKeyId, S)
    await collect(db, usageOf(rotation.newKeyId, 'refused-upstream', { last: at(S) }))
    expect((await say(rotation)).outcome).toBe('not-used')
  })
})

test('only the new key says so, and only while both are accepted', async () => {
  const rotation = await switchedOver()
  expect(await say(rotation, SAID, rotation.keyId)).toEqual({ outcome: 'another-key' })
  await enterStage(db, { ...rotation.by, stage: 'rolling-back' })
  expect(await say(rotation)).toEqual({ outcome: 'wrong-stage', stage: 'rolling-back' })
  const credential = await makeCredential(db)
  const early = await open(db, credential)
  const { keyId } = await introduce(db, early)
  expect(await noteDone(db, { rotationId: early, keyId, at: at(SAID), from: 'x' })).toMatchObject({ outcome: 'wrong-stage' })
})

test('G7: it is in the audit log once, however often it is said', async () => {
  const rotation = await switchedOver()
  await Promise.all(Array.from({ length: 5 }, () => say(rotation)))
  const entries = (await listAudit(db, { rotationId: rotation.rotationId, limit: 50 })).filter(
    ({ action }) => action === 'rotation.done',
  )
  expect(entries.map(({ actor, detail }) => [actor, detail])).toEqual([
    ['client', { keyId: rotation.newKeyId, from: '192.0.2.1 feed/1' }],
  ])
})

test('once the old key goes there is nothing left to say', async () => {
  const rotation = await switchedOver()
  await say(rotation)
  await through(BELIEVED)
  await deactivateKey(db, { ...rotation.by, keyId: rotation.keyId, unless: 'used', stage: { stage: 'deactivating' } })
  expect(await say(rotation)).toEqual({ outcome: 'noted', stage: 'deactivating' })
})
