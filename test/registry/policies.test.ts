import { byPrecedence, type Policy, randomBase62, type Selector, selects } from '@keyturn/contract'
import fc from 'fast-check'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { listAudit, verifyAudit } from '../../registry/audit.ts'
import { createClient } from '../../registry/clients.ts'
import { createCredential, getCredential } from '../../registry/credentials.ts'
import type { Database } from '../../registry/database.ts'
import { deactivateKey } from '../../registry/keys.ts'
import { recordLeaks, toSighting } from '../../registry/leak-intake.ts'
import { containLeak } from '../../registry/leak-response.ts'
import {
  type ApplyPolicies,
  applyPolicies,
  countByPolicy,
  getPolicy,
  listPolicies,
  policyOfCredential,
  removePolicy,
  resumePolicy,
  rotationPolicyOf,
  stopPolicy,
} from '../../registry/policies.ts'
import { sha256Of } from '../support/shown.ts'
import { at, DAY, introduce, keyOf, makeCredential, open, openTestDatabase, refusalOf, sealer, untilWaiting } from './world.ts'

const databases: Database[] = []
let db: Database
beforeEach(async () => {
  db = await openTestDatabase()
  databases.push(db)
})
afterAll(() => Promise.all(databases.map((each) => each.close())))

const apply = (policies: Policy[], more: Partial<ApplyPolicies> = {}) =>
  applyPolicies(db, { policies, order: 'file', prune: false, at: at(0), actor: 'ann', ...more })

const policy = (name: string, select?: Selector, more: Partial<Policy> = {}): Policy => ({
  name,
  ...(select === undefined ? { all: true } : { select }),
  ...more,
})

interface Like {
  readonly environment?: 'dev' | 'prod'
  readonly scopes?: string[]
  readonly labels?: Record<string, string>
}

async function credentialLike({ environment = 'prod', scopes = ['read'], labels = {} }: Like = {}) {
  const { clientId } = await createClient(db, { name: 'Acme', contacts: [], at: at(0), actor: 'test' })
  return createCredential(db, {
    clientId,
    name: `feed-${randomBase62(6)}`,
    environment,
    scopes,
    labels,
    brand: 'kt',
    sealer,
    claimExpiresAt: at(DAY),
    at: at(0),
    actor: 'test',
  })
}

const policyNameOf = async (credentialId: string): Promise<string | undefined> => (await getCredential(db, credentialId))?.policy

describe('applying policies', () => {
  test('creates, changes, leaves alone, and removes what is no longer there', async () => {
    const changes = await apply([policy('a'), policy('b', { environment: 'prod' })])
    expect(changes.map(({ name, change }) => [name, change])).toEqual([
      ['a', 'created'],
      ['b', 'created'],
    ])
    const next = await apply([policy('b', { environment: 'prod' }, { period: '30d', overlap: '3d' })])
    expect(next).toEqual([
      {
        name: 'b',
        change: 'changed',
        credentials: 0,
        before: policy('b', { environment: 'prod' }),
        after: policy('b', { environment: 'prod' }, { period: '30d', overlap: '3d' }),
      },
    ])
    const pruned = await apply([policy('b', { environment: 'prod' }, { period: '30d', overlap: '3d' })], { prune: true })
    expect(pruned.map(({ name, change }) => [name, change])).toEqual([
      ['b', 'unchanged'],
      ['a', 'removed'],
    ])
    expect((await listPolicies(db)).map(({ name, revision }) => [name, revision])).toEqual([['b', 2]])
    expect(await getPolicy(db, 'a')).toBeUndefined()
  })

  test('a dry run says the same and changes nothing', async () => {
    const { credentialId } = await credentialLike()
    const dry = await apply([policy('a')], { dryRun: true })
    expect(dry).toMatchObject([{ name: 'a', change: 'created', credentials: 1 }])
    expect(await listPolicies(db)).toEqual([])
    expect(await policyNameOf(credentialId)).toBeUndefined()
    expect(await listAudit(db, { subject: 'policy:a', limit: 10 })).toEqual([])
    expect(await apply([policy('a')])).toEqual(dry)
  })

  test('G7: every change is in the audit log once, with the whole policy; every version is kept', async () => {
    await apply([policy('a')])
    await apply([policy('a', undefined, { period: '60d' })])
    await apply([policy('a', undefined, { period: '60d' })])
    await removePolicy(db, { name: 'a', at: at(1), actor: 'ben' })
    await apply([policy('a')], { at: at(2) })
    const entries = await listAudit(db, { subject: 'policy:a', limit: 10 })
    expect(entries.map(({ action, revision, actor }) => [action, revision, actor])).toEqual([
      ['policy.set', 1, 'ann'],
      ['policy.set', 2, 'ann'],
      ['policy.removed', 3, 'ben'],
      ['policy.set', 4, 'ann'],
    ])
    expect(entries[1]?.detail).toEqual({ policy: policy('a', undefined, { period: '60d' }) })
    const versions = await db.query<{ revision: number; document: Policy | null }>(
      `select revision, document from policy_versions where name = 'a' order by revision`,
    )
    expect(versions.map(({ document }) => document?.period ?? document)).toEqual([policy('a'), '60d', null, policy('a')])
    expect(await refusalOf(db.query('update policy_versions set document = null'))).toBe('KT001')
    expect(await verifyAudit(db)).toMatchObject({ ok: true })
  })

  test('all of it or nothing: one that can not be stored undoes the others', async () => {
    await expect(apply([policy('a'), policy('Not a name')])).rejects.toThrow()
    expect(await listPolicies(db)).toEqual([])
    expect(await listAudit(db, { subject: 'policy:a', limit: 10 })).toEqual([])
  })

  test('there is a limit to how many', async () => {
    const many = Array.from({ length: 201 }, (_, i) => policy(`p${i}`, { labels: { n: String(i) } }))
    await expect(apply(many)).rejects.toMatchObject({ code: 'invalid-policy' })
  })

  test('one that is not there can not be removed', async () => {
    await expect(removePolicy(db, { name: 'a', at: at(0), actor: 'ann' })).rejects.toMatchObject({ code: 'unknown-policy' })
  })
})

describe('the policy of a credential', () => {
  test('is the most specific one that selects it, then the first of the file; another takes over when it is removed', async () => {
    const { credentialId } = await credentialLike({ scopes: ['trade:write'], labels: { team: 'fx' } })
    await apply([policy('all'), policy('second', { scope: 'trade:*' }), policy('third', { scope: 'trade:write' })])
    expect(await policyNameOf(credentialId)).toBe('second')
    await apply([policy('third', { scope: 'trade:write' }), policy('second', { scope: 'trade:*' })])
    expect(await policyNameOf(credentialId)).toBe('third')
    expect(await listAudit(db, { subject: 'policies', limit: 10 })).toMatchObject([{ action: 'policies.ordered' }])
    await apply([policy('label', { labels: { team: 'fx' } })], { order: 'keep' })
    expect(await policyNameOf(credentialId)).toBe('label')
    expect((await listPolicies(db)).map(({ name }) => name)).toEqual(['third', 'second', 'all', 'label'])
    for (const [gone, next] of [
      ['label', 'third'],
      ['third', 'second'],
      ['second', 'all'],
      ['all', undefined],
    ] as const) {
      await removePolicy(db, { name: gone, at: at(0), actor: 'ann' })
      expect(await policyNameOf(credentialId)).toBe(next)
    }
  })

  test('a new credential has it at once, and its key expires as the policy says', async () => {
    await apply([policy('all', undefined, { expiry: '100d' })])
    const { credentialId, keyId } = await credentialLike()
    expect(await policyNameOf(credentialId)).toBe('all')
    expect((await keyOf(db, keyId)).expiresAt).toEqual(at(100 * DAY))
    expect(await countByPolicy(db)).toEqual(new Map([['all', 1]]))
  })

  test('a credential that is made while policies change has the right one', async () => {
    await apply([policy('before')])
    const blocked = await db.pool.connect()
    await blocked.query('begin')
    await blocked.query('select pg_advisory_xact_lock(7041978)')
    const made = credentialLike()
    const changed = apply([policy('after', { environment: 'prod' })])
    await untilWaiting(db, 2)
    await blocked.query('commit')
    blocked.release()
    const [{ credentialId }] = await Promise.all([made, changed])
    expect(await policyNameOf(credentialId)).toBe('after')
  })

  test('says how its rotations run, by hand too', async () => {
    const { credentialId } = await credentialLike()
    expect((await rotationPolicyOf(db, credentialId)).overlapMs).toBe(14 * DAY)
    await apply([policy('all', undefined, { overlap: '3d' })])
    expect(await rotationPolicyOf(db, credentialId)).toMatchObject({ name: 'all', overlapMs: 3 * DAY })
    expect(await policyOfCredential(db, credentialId)).toMatchObject({
      name: 'all',
      changedBy: 'ann',
      terms: { periodMs: 90 * DAY },
    })
  })

  test('a successor expires as the rotation says', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential, { policy: { expiryMs: 50 * DAY } })
    const { keyId } = await introduce(db, rotationId)
    expect((await keyOf(db, keyId)).expiresAt).toEqual(at(50 * DAY))
    await expect(
      deactivateKey(db, { keyId: credential.keyId, rotationId, at: at(0), actor: 'x', reason: 'x', unless: 'never' }),
    ).resolves.toBeDefined()
  })

  test('is the same by SQL as by the contract, for any policies, in any order of changes', async () => {
    const selector: fc.Arbitrary<Selector> = fc
      .record(
        {
          environment: fc.constantFrom('dev' as const, 'prod' as const),
          scope: fc.constantFrom('trade:*', 'trade:write', 'read'),
          labels: fc.record({ team: fc.constantFrom('fx', 'rates') }, { noNullPrototype: true }),
        },
        { requiredKeys: [], noNullPrototype: true },
      )
      .filter((select) => Object.keys(select).length > 0)
    const likes: Like[] = ['dev' as const, 'prod' as const].flatMap((environment) =>
      [['trade:write'], ['read'], ['trade', 'read'], []].flatMap((scopes) =>
        [{}, { team: 'fx' }, { team: 'rates', desk: 'ny' }].map(
          (labels): Like => ({ environment, scopes, labels: labels as Record<string, string> }),
        ),
      ),
    )
    const made = await Promise.all(likes.map(async (like) => ({ ...like, ...(await credentialLike(like)) })))
    const step = fc.record({
      policies: fc.uniqueArray(
        fc.record({ name: fc.constantFrom('a', 'b', 'c', 'd', 'e'), select: fc.option(selector, { nil: undefined }) }),
        { selector: ({ name }) => name, maxLength: 5 },
      ),
      order: fc.constantFrom('file' as const, 'keep' as const),
      prune: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 4 }), async (steps) => {
        for (const { policies, order, prune } of steps) {
          await apply(
            policies.map(({ name, select }) => policy(name, select)),
            { order, prune },
          )
          const ranked = byPrecedence((await listPolicies(db)).map((each) => each.policy))
          const rows = await db.query<{ id: string; policy: string | null }>(
            'select credential_id as id, policy from credentials',
          )
          const stored = new Map(rows.map(({ id, policy: name }) => [id, name ?? undefined]))
          for (const { credentialId, environment = 'prod', scopes = [], labels = {} } of made) {
            const credential = { clientId: '', environment, scopes, labels }
            const winner = ranked.find(({ select = {} }) => selects(select, credential))
            expect(stored.get(credentialId)).toBe(winner?.name)
          }
        }
      }),
      { numRuns: 25 },
    )
  })
})

describe('a stopped policy', () => {
  test('is stopped once, told in the same transaction, and goes on when a person says so', async () => {
    await apply([policy('a')])
    let told = 0
    const tell = async () => {
      told += 1
    }
    const stop = () => stopPolicy(db, { name: 'a', reason: '3 of 10', at: at(1) }, tell)
    expect([await stop(), await stop(), told]).toEqual([true, false, 1])
    expect((await getPolicy(db, 'a'))?.stopped).toEqual({ at: at(1), reason: '3 of 10' })
    await resumePolicy(db, { name: 'a', reason: 'mended', at: at(2), actor: 'ann' })
    expect(await getPolicy(db, 'a')).toMatchObject({ countedFrom: at(2) })
    expect((await getPolicy(db, 'a'))?.stopped).toBeUndefined()
    const entries = await listAudit(db, { subject: 'policy:a', limit: 10 })
    expect(entries.map(({ action, detail }) => [action, detail['reason']])).toEqual([
      ['policy.set', undefined],
      ['policy.stopped', '3 of 10'],
      ['policy.resumed', 'mended'],
    ])
    await expect(resumePolicy(db, { name: 'a', reason: 'x', at: at(3), actor: 'ann' })).rejects.toMatchObject({
      code: 'wrong-stage',
    })
    await expect(resumePolicy(db, { name: 'b', reason: 'x', at: at(3), actor: 'ann' })).rejects.toMatchObject({
      code: 'unknown-policy',
    })
  })

  test('is not stopped when nobody could be told', async () => {
    await apply([policy('a')])
    const untold = stopPolicy(db, { name: 'a', reason: 'x', at: at(1) }, () => Promise.reject(new Error('Kafka is away')))
    await expect(untold).rejects.toThrow('Kafka is away')
    expect((await getPolicy(db, 'a'))?.stopped).toBeUndefined()
  })

  test('goes on when it is changed', async () => {
    await apply([policy('a')])
    await stopPolicy(db, { name: 'a', reason: 'x', at: at(1) }, async () => {})
    await apply([policy('a', undefined, { overlap: '20d' })], { at: at(5) })
    expect(await getPolicy(db, 'a')).toMatchObject({ countedFrom: at(5) })
    expect((await getPolicy(db, 'a'))?.stopped).toBeUndefined()
  })
})

test.each([
  ['atOnce', ['read:prices'], { atOnce: true }],
  ['5m', ['trade:write'], { atOnce: false, overlapMs: 300_000 }],
  [undefined, ['trade:write'], { atOnce: true }],
  [undefined, ['read:prices'], { atOnce: false, overlapMs: 3_600_000 }],
] as const)('onLeak %s, scopes %j: what a leak of its key does', async (onLeak, scopes, expected) => {
  const { keyId } = await credentialLike({ scopes: [...scopes] })
  await apply([policy('leaky', undefined, onLeak === undefined ? {} : { onLeak })])
  const tokenSha256 = sha256Of(await keyOf(db, keyId))
  const sightings = [toSighting({ tokenSha256, source: 'test' })]
  const [leak] = await recordLeaks(db, { sightings, reporter: 'operator', at: at(1) })
  if (leak === undefined) throw new Error('it was not recorded')
  const settings = { atOnce: ['trade:*'], overlapMs: 3_600_000 }
  const plan = await containLeak(db, { leakId: leak.leakId, at: at(2), settings, force: false, begun: true })
  expect(plan).toMatchObject(expected)
  expect((await keyOf(db, keyId)).state).toBe(expected.atOnce ? 'compromised' : 'active')
})
