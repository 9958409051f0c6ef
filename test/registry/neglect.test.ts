import { type RotationStage, randomBase62 } from '@keyturn/contract'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { createClient } from '../../registry/clients.ts'
import { createCredential } from '../../registry/credentials.ts'
import type { Database } from '../../registry/database.ts'
import { claimChore, listRetirementProposals, proposeRetirements, warnOfExpiry } from '../../registry/neglect.ts'
import { applyPolicies } from '../../registry/policies.ts'
import { enterStage } from '../../registry/rotations.ts'
import { setCompleteThrough } from '../../registry/usage.ts'
import { at, collect, DAY, HOUR, makeCredential, open, openTestDatabase, sealer, type TestCredential, usageOf } from './world.ts'

const databases: Database[] = []
let db: Database
beforeEach(async () => {
  db = await openTestDatabase()
  databases.push(db)
})
afterAll(() => Promise.all(databases.map((each) => each.close())))

/** A credential whose policy makes its keys expire after 100 days. */
async function expiring(madeAt = at(0)): Promise<TestCredential> {
  const policies = [{ name: 'short-lived', all: true as const, period: '90d', overlap: '10d', expiry: '100d' }]
  await applyPolicies(db, { policies, order: 'file', prune: false, at: madeAt, actor: 'test' })
  const { clientId } = await createClient(db, { name: 'Acme', contacts: [], at: madeAt, actor: 'test' })
  const made = await createCredential(db, {
    clientId,
    name: randomBase62(8),
    environment: 'prod',
    scopes: [],
    brand: 'kt',
    sealer,
    claimExpiresAt: new Date(madeAt.getTime() + DAY),
    at: madeAt,
    actor: 'test',
  })
  return { clientId, claimId: '', ...made }
}

describe('keys that expire', () => {
  const warned = async (days: number, byPolicy = new Map([['short-lived', 10 * DAY]])): Promise<string[]> => {
    const keys: string[] = []
    await warnOfExpiry(db, { at: at(days * DAY), byPolicy, otherwiseMs: 14 * DAY, limit: 10 }, async ({ keyId }) => {
      keys.push(keyId)
    })
    return keys
  }

  test('are warned of once, when a rotation should have begun and has not', async () => {
    // One that does not expire is never warned of.
    await makeCredential(db)
    const { keyId } = await expiring()
    expect(await warned(89)).toEqual([])
    expect(await warned(91)).toEqual([keyId])
    expect(await warned(92)).toEqual([])
    expect(await warned(110)).toEqual([])
  })

  test('without a policy earlier', async () => {
    const { keyId } = await expiring()
    expect(await warned(85, new Map())).toEqual([])
    expect(await warned(87, new Map())).toEqual([keyId])
  })

  test.each<[RotationStage | undefined, boolean]>([
    [undefined, false],
    ['monitoring', false],
    ['held', true],
    ['rolled-back', true],
  ])('in a rotation that is %s: %s', async (stage, isWarned) => {
    const credential = await expiring()
    const rotationId = await open(db, credential)
    if (stage !== undefined) await enterStage(db, { rotationId, stage, at: at(0), actor: 'test' })
    expect(await warned(95)).toEqual(isWarned ? [credential.keyId] : [])
  })

  test('is remembered with the telling: when nobody could be told, it is told again', async () => {
    const { keyId } = await expiring()
    const notice = { at: at(95 * DAY), byPolicy: new Map<string, number>(), otherwiseMs: 14 * DAY, limit: 10 }
    await expect(warnOfExpiry(db, notice, () => Promise.reject(new Error('Kafka is away')))).rejects.toThrow()
    expect(await warned(95)).toEqual([keyId])
  })
})

describe('credentials that nobody uses', () => {
  const proposed = async (days: number): Promise<string[]> => {
    await setCompleteThrough(db, at(days * DAY), [])
    const told: string[] = []
    await proposeRetirements(db, { at: at(days * DAY), unusedMs: 90 * DAY }, async ({ credentialId }) => {
      told.push(credentialId)
    })
    return told
  }
  const listed = async () => (await listRetirementProposals(db, { limit: 10 })).map(({ credentialId }) => credentialId)

  test('are proposed once, never used or no longer used; a use takes the proposal back', async () => {
    const never = await makeCredential(db)
    const once = await makeCredential(db)
    const always = await makeCredential(db)
    await collect(
      db,
      usageOf(once.keyId, 'accepted', { last: at(5 * DAY) }),
      usageOf(always.keyId, 'accepted', { last: at(50 * DAY) }),
    )
    expect(await proposed(89)).toEqual([])
    expect(await proposed(91)).toEqual([never.credentialId])
    expect(await proposed(96)).toEqual([once.credentialId])
    expect(await proposed(97)).toEqual([])
    expect(await listed()).toEqual([never.credentialId, once.credentialId].sort())
    expect(
      (await listRetirementProposals(db, { limit: 10 })).find(({ credentialId }) => credentialId === once.credentialId),
    ).toMatchObject({
      clientId: once.clientId,
      name: 'feed',
      environment: 'prod',
      lastUsedAt: at(5 * DAY),
      proposedAt: at(96 * DAY),
    })
    await collect(db, usageOf(once.keyId, 'accepted', { last: at(98 * DAY) }))
    expect(await proposed(99)).toEqual([])
    expect(await listed()).toEqual([never.credentialId])
    expect(await proposed(190)).toEqual([once.credentialId, always.credentialId].sort())
  })

  test('not while their use is not known', async () => {
    await makeCredential(db)
    const propose = () => proposeRetirements(db, { at: at(200 * DAY), unusedMs: 90 * DAY }, async () => {})
    expect(await propose()).toBe(0)
    await setCompleteThrough(db, at(80 * DAY), ['gw-1'])
    expect(await propose()).toBe(0)
    await setCompleteThrough(db, at(100 * DAY), [])
    expect(await propose()).toBe(1)
  })

  test('are listed page by page', async () => {
    const ids = (await Promise.all([1, 2, 3].map(() => makeCredential(db)))).map(({ credentialId }) => credentialId).sort()
    await proposed(100)
    expect((await listRetirementProposals(db, { limit: 2 })).map(({ credentialId }) => credentialId)).toEqual(ids.slice(0, 2))
    expect(
      (await listRetirementProposals(db, { after: ids[1] ?? '', limit: 2 })).map(({ credentialId }) => credentialId),
    ).toEqual(ids.slice(2))
  })
})

test('of several that want to do a chore, one does, and again only when it is time', async () => {
  const claim = (hours: number) => claimChore(db, 'dishes', at(hours * HOUR), 6 * HOUR)
  expect((await Promise.all([1, 1, 1, 1].map(claim))).filter((mine) => mine)).toHaveLength(1)
  expect(await claim(6)).toBe(false)
  expect(await claim(7)).toBe(true)
})
