import type { EvidenceFact, RotationPolicy } from '@keyturn/contract'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { compromiseKey, deactivateKey } from '../../registry/keys.ts'
import { enterStage, getRotation } from '../../registry/rotations.ts'
import { forgetTold, readEvidence, rotationsToTell, setCompleteThrough, tellOnce } from '../../registry/usage.ts'
import { at, collect, DAY, HOUR, keyOf, monitored, openTestDatabase, type TestRotation, untilWaiting, usageOf } from './world.ts'

/** When the old key was last used, in every case. */
const LAST_USE = 3 * HOUR
const SOURCE = { address: '192.0.2.7', userAgent: 'old-client/1.0', count: 3 }

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())
beforeEach(() => setCompleteThrough(db, undefined, []))

/** A rotation in monitoring whose old key was last used at `LAST_USE`, and whose new one is in use. */
async function switchedOver(policy: Partial<RotationPolicy> = {}): Promise<TestRotation> {
  const rotation = await monitored(db, { quietPeriodMs: DAY, ...policy })
  const old = usageOf(rotation.keyId, 'accepted', { last: at(LAST_USE) }, [{ ...SOURCE, lastAt: at(LAST_USE).toISOString() }])
  await collect(db, old, usageOf(rotation.newKeyId, 'accepted', { last: at(HOUR) }))
  return rotation
}

const attempt = ({ by, keyId }: TestRotation, unless: 'used' | 'never' = 'used') => deactivateKey(db, { ...by, keyId, unless })
const factsOf = async ({ rotationId }: TestRotation): Promise<EvidenceFact[]> =>
  (await rotationsToTell(db)).filter((one) => one.rotationId === rotationId).map(({ fact }) => fact)

/** The three places that judge the evidence: they must say the same. */
async function verdicts(rotation: TestRotation) {
  const read = (await readEvidence(db, rotation.rotationId)).sufficient
  const told = (await factsOf(rotation)).includes('old-key-quiet')
  const { deactivated } = await attempt(rotation)
  return { read, told, deactivated }
}
const ALL = { read: true, told: true, deactivated: true }
const NONE = { read: false, told: false, deactivated: false }

describe('G2: the old key is deactivated on sufficient evidence alone', () => {
  test('G2: a millisecond before the quiet period is over it is not', async () => {
    const rotation = await switchedOver()
    await setCompleteThrough(db, at(LAST_USE + DAY - 1), [])
    expect(await verdicts(rotation)).toEqual(NONE)
    expect(await keyOf(db, rotation.keyId)).toMatchObject({ state: 'active', standing: 'current', revision: 2 })
  })

  test('G2: at the very end of the quiet period it is', async () => {
    const rotation = await switchedOver()
    await setCompleteThrough(db, at(LAST_USE + DAY), [])
    expect(await verdicts(rotation)).toEqual(ALL)
    expect(await keyOf(db, rotation.keyId)).toMatchObject({ state: 'deactivated', standing: 'retired', revision: 3 })
  })

  test('G2: while nothing is known of the later use, however much time has passed, it is not', async () => {
    const rotation = await switchedOver()
    await setCompleteThrough(db, at(LAST_USE + 365 * DAY), [])
    await setCompleteThrough(db, undefined, ['gw-2'])
    expect(await verdicts(rotation)).toEqual(NONE)
    expect((await readEvidence(db, rotation.rotationId)).silentGateways).toEqual(['gw-2'])
  })

  test('G2: while the new key has never been accepted, it is not: a refusal is no use', async () => {
    const rotation = await monitored(db, { quietPeriodMs: DAY })
    await collect(db, usageOf(rotation.newKeyId, 'refused', { last: at(HOUR) }))
    await collect(db, usageOf(rotation.newKeyId, 'refused-upstream', { last: at(HOUR) }))
    await setCompleteThrough(db, at(365 * DAY), [])
    expect(await verdicts(rotation)).toEqual(NONE)
  })

  test('G2: an old key that was never used counts as quiet since it may be used', async () => {
    const rotation = await monitored(db, { quietPeriodMs: DAY })
    const { notBefore } = await keyOf(db, rotation.keyId)
    await collect(db, usageOf(rotation.newKeyId, 'accepted', { last: at(1) }))
    await setCompleteThrough(db, new Date(notBefore.getTime() + DAY - 1), [])
    expect(await verdicts(rotation)).toEqual(NONE)
    await setCompleteThrough(db, new Date(notBefore.getTime() + DAY), [])
    expect(await verdicts(rotation)).toEqual(ALL)
  })

  test('G2: refusals of the old key are no use of it, and a late report of use is', async () => {
    const rotation = await switchedOver()
    await collect(db, usageOf(rotation.keyId, 'refused', { last: at(LAST_USE + DAY) }))
    await setCompleteThrough(db, at(LAST_USE + DAY), [])
    expect((await readEvidence(db, rotation.rotationId)).sufficient).toBe(true)
    await collect(db, usageOf(rotation.keyId, 'accepted', { last: at(LAST_USE + 1) }))
    expect(await verdicts(rotation)).toEqual(NONE)
  })

  test('G2: an operator or a policy may decide without, and the evidence of a refusal says why', async () => {
    const rotation = await switchedOver()
    await setCompleteThrough(db, at(LAST_USE), [])
    expect(await attempt(rotation)).toEqual({
      deactivated: false,
      evidence: {
        completeThrough: at(LAST_USE).toISOString(),
        oldKeyLastUsedAt: at(LAST_USE).toISOString(),
        newKeyFirstUsedAt: at(HOUR).toISOString(),
        newKeyLastUsedAt: at(HOUR).toISOString(),
        newKeyRefusals: 0,
        oldKeyRefusals: 0,
        silentGateways: [],
        stragglers: [{ ...SOURCE, lastAt: at(LAST_USE).toISOString() }],
        sufficient: false,
      },
    })
    expect(await attempt(rotation, 'never')).toEqual({ deactivated: true, revision: 3 })
  })

  test('G2: a compromised key needs no evidence', async () => {
    const rotation = await switchedOver()
    await compromiseKey(db, { ...rotation.by, keyId: rotation.keyId })
    expect((await keyOf(db, rotation.keyId)).state).toBe('compromised')
  })

  test('G2: a refused attempt leaves nothing behind, not even a stage', async () => {
    const rotation = await switchedOver()
    const before = await getRotation(db, rotation.rotationId)
    await deactivateKey(db, { ...rotation.by, keyId: rotation.keyId, unless: 'used', stage: { stage: 'deactivating' } })
    expect(await getRotation(db, rotation.rotationId)).toEqual(before)
  })
})

describe('what the collector has to tell', () => {
  test('each fact once in a stage, and again after monitoring has begun anew', async () => {
    const rotation = await switchedOver()
    await setCompleteThrough(db, at(LAST_USE + DAY), [])
    expect(await factsOf(rotation)).toEqual(['new-key-used', 'old-key-quiet'])
    const quiet = { rotationId: rotation.rotationId, stage: 'monitoring', fact: 'old-key-quiet' } as const
    const told: string[] = []
    const tell = () => tellOnce(db, quiet, async () => void told.push('quiet'))
    await expect(tellOnce(db, quiet, () => Promise.reject(new Error('Temporal is away')))).rejects.toThrow('away')
    // As many collectors at once.
    await Promise.all(Array.from({ length: 8 }, tell))
    expect([await tell(), told]).toEqual([false, ['quiet']])
    expect(await tellOnce(db, { ...quiet, stage: 'deactivating', fact: 'old-key-refused' }, tell)).toBe(false)
    expect(await factsOf(rotation)).toEqual(['new-key-used'])
    await forgetTold(db, rotation.rotationId)
    expect(await factsOf(rotation)).toEqual(['new-key-used', 'old-key-quiet'])
    await enterStage(db, { ...rotation.by, stage: 'held', heldFor: 'operator' })
    expect(await factsOf(rotation)).toEqual([])
  })

  test('refusals of the new key, more than the policy bears, by the gateway or by the API behind it', async () => {
    const rotation = await monitored(db, { newKeyRefusals: 2 })
    await collect(db, usageOf(rotation.newKeyId, 'refused', { last: at(1) }))
    await collect(db, usageOf(rotation.newKeyId, 'refused-upstream', { last: at(1) }))
    await collect(db, usageOf(rotation.newKeyId, 'wrong-environment', { last: at(1), count: 50 }))
    expect(await factsOf(rotation)).toEqual([])
    await collect(db, usageOf(rotation.newKeyId, 'refused-upstream', { last: at(2) }))
    expect(await factsOf(rotation)).toEqual(['new-key-refused'])
    expect((await readEvidence(db, rotation.rotationId)).newKeyRefusals).toBe(3)
  })

  test('refusals of the old key since it was deactivated, more than the policy bears', async () => {
    const rotation = await switchedOver({ oldKeyRefusals: 2 })
    await collect(db, usageOf(rotation.keyId, 'refused', { last: at(HOUR), count: 100 }))
    await deactivateKey(db, { ...rotation.by, keyId: rotation.keyId, unless: 'never', stage: { stage: 'deactivating' } })
    await collect(db, usageOf(rotation.keyId, 'refused', { last: at(DAY), count: 2 }))
    expect(await factsOf(rotation)).toEqual([])
    await collect(db, usageOf(rotation.keyId, 'refused', { last: at(DAY) }))
    expect(await factsOf(rotation)).toEqual(['old-key-refused'])
    expect((await readEvidence(db, rotation.rotationId)).oldKeyRefusals).toBe(3)
    await enterStage(db, { ...rotation.by, stage: 'completed' })
    expect(await factsOf(rotation)).toEqual([])
  })
})

test('a rotation can not forget a fact between the telling and the noting of it', async () => {
  const rotation = await switchedOver()
  const fact = { rotationId: rotation.rotationId, stage: 'monitoring', fact: 'old-key-quiet' } as const
  let forgotten: Promise<void> = Promise.resolve()
  await tellOnce(db, fact, async () => {
    forgotten = forgetTold(db, rotation.rotationId)
    await untilWaiting(db, 1)
  })
  await forgotten
  // It was told, then forgotten: it is told anew.
  expect(await tellOnce(db, fact, async () => undefined)).toBe(true)
})

test('stragglers are who used the old key since the rotation was opened, latest first', async () => {
  const rotation = await monitored(db)
  const source = (address: string, ms: number) => ({ address, userAgent: 'x', count: 1, lastAt: at(ms).toISOString() })
  await collect(
    db,
    usageOf(rotation.keyId, 'accepted', { last: at(HOUR) }, [source('a', -1), source('b', 0), source('c', HOUR), source('d', 1)]),
  )
  const { stragglers } = await readEvidence(db, rotation.rotationId)
  expect(stragglers.map(({ address }) => address)).toEqual(['c', 'd', 'b'])
})

test('an unknown rotation has no evidence', async () => {
  await expect(readEvidence(db, 'rot_0000000000000000' as TestRotation['rotationId'])).rejects.toMatchObject({
    code: 'unknown-rotation',
  })
})
