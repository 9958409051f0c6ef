import { type RolloverId, randomBase62, type Selector } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { claimOfKey } from '../../registry/claims.ts'
import type { Database } from '../../registry/database.ts'
import { deactivateKey, keysOfCredential } from '../../registry/keys.ts'
import { enterRolloverStage, getRollover, keysOfRollover, nextMembers, noteMember } from '../../registry/rollover-records.ts'
import { type NewRollover, openRollover, previewRollover } from '../../registry/rollovers.ts'
import { openRotation } from '../../registry/rotations.ts'
import { makeFleet } from '../support/fleet.ts'
import { obstruct } from '../support/obstacles.ts'
import { at, introduce, keyOf, makeCredential, monitored, newRotationId, open, openTestDatabase, untilWaiting } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const newRolloverId = (): RolloverId => `rol_${randomBase62(16)}` as RolloverId

/** Credentials that nothing else has the scope of, and the selector for them. */
async function fleet(count: number) {
  const scope = `fleet-${randomBase62(12).toLowerCase()}`
  return { members: await makeFleet(db, count, [`${scope}:write`]), selector: { scope: `${scope}:*` } satisfies Selector }
}

async function rollOver(selector: Selector, more: Partial<NewRollover> = {}) {
  const rolloverId = newRolloverId()
  const opened = await openRollover(db, { rolloverId, selector, reason: 'breach', at: at(1_000), actor: 'alice', ...more })
  return { ...opened, rolloverId }
}
const stage = (rolloverId: RolloverId, next: 'paused' | 'confirming' | 'cancelled') =>
  enterRolloverStage(db, { rolloverId, stage: next, at: at(2_000), actor: 'alice', ended: next === 'cancelled' })
const statesOf = async (credentialId: string) =>
  (await keysOfCredential(db, credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)

test('G7, G9: kills every live key of the chosen in one transaction, each with its audit entry in the chain', async () => {
  const { members, selector } = await fleet(300)
  const other = await makeCredential(db)
  expect(await previewRollover(db, { selector })).toEqual({
    credentials: 300,
    keys: 300,
    clients: 10,
    environments: { prod: 300 },
    joined: 0,
  })
  const before = await verifyAudit(db)
  const { rolloverId, selected, killed } = await rollOver(selector, { expected: 300 })
  expect([selected, killed]).toEqual([300, 300])
  for (const { credentialId } of [members[0], members[299]].filter((one) => one !== undefined))
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired'])
  expect(await statesOf(other.credentialId)).toEqual(['1 active current'])
  const entries = await db.query<{ revision: number; detail: object; actor: string }>(
    `select revision, detail, actor from audit where action = 'key.compromised' and subject = any($1)`,
    [members.map(({ keyId }) => keyId)],
  )
  expect(entries).toHaveLength(300)
  expect(entries[0]).toEqual({
    revision: 2,
    actor: 'alice',
    detail: { from: 'active', to: 'compromised', reason: 'breach', rolloverId },
  })
  // The chain is whole, and has one more entry than keys: the rollover's own.
  expect(await verifyAudit(db)).toEqual({ ok: true, entries: (before.ok ? before.entries : 0) + 301 })
  expect(new Set(await keysOfRollover(db, rolloverId))).toEqual(new Set(members.map(({ keyId }) => keyId)))
  expect(
    await db.query('select from keys where published_revision < revision and key_id = $1', [members[7]?.keyId]),
  ).toHaveLength(1)
  // The same request again is the same rollover.
  const again = await openRollover(db, { rolloverId, selector, reason: 'breach', at: at(5_000), actor: 'alice' })
  expect([again.selected, again.killed, again.keyIds.length]).toEqual([300, 300, 300])
})

test('G7: all of it or nothing: while one key can not be killed none is, and nothing is on record', async () => {
  const { members, selector } = await fleet(20)
  const stubborn = members[13]?.credentialId
  if (stubborn === undefined) throw new Error('there is no member')
  const release = await obstruct(db, stubborn, { refuses: 'change', event: 'keyturn.key.compromised' })
  const [head] = await db.query<{ seq: number }>('select seq from audit_head')
  await expect(rollOver(selector)).rejects.toThrow('an obstacle of the test')
  for (const { credentialId } of members) expect(await statesOf(credentialId)).toEqual(['1 active current'])
  expect(await db.query('select seq from audit_head')).toEqual([head])
  expect(await db.query('select from rollovers where selector = $1', [selector])).toEqual([])
  await release()
  expect(await rollOver(selector)).toMatchObject({ selected: 20, killed: 20 })
})

test('kills both keys of a running rotation, with the open claim of the new one', async () => {
  const { credentialId, clientId, newKeyId } = await monitored(db)
  expect(await rollOver({ client: clientId })).toMatchObject({ selected: 1, killed: 2 })
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 compromised retired'])
  expect((await claimOfKey(db, newKeyId))?.state).toBe('destroyed')
})

test('G9: kills the old key that a roll-back in the regret window could bring back', async () => {
  const { credentialId, clientId, keyId, by } = await monitored(db)
  await deactivateKey(db, { ...by, keyId, unless: 'never' })
  expect(await rollOver({ client: clientId })).toMatchObject({ killed: 2 })
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 compromised retired'])
})

test('a key that is being issued at that moment does not slip through', async () => {
  const credential = await makeCredential(db)
  const rotationId = await open(db, credential)
  const { tx } = db
  let rolling: Promise<unknown> = Promise.resolve()
  // The rotation has locked the old key, and commits the new one while the rollover waits for that lock.
  await tx.call(db, async (locked) => {
    await locked.query('select from keys where key_id = $1 for no key update', [credential.keyId])
    rolling = rollOver({ client: credential.clientId })
    await untilWaiting(db, 1)
    await locked.query(
      `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash) values (0, now(), 'test', 'key.introduced', $1, 1, '{}', '', '')`,
      ['0000000000slipin'],
    )
    await locked.query(
      `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, rotation_id, created_at)
       select '0000000000slipin', credential_id, 2, 'active', 'successor', event, jsonb_set(verifier, '{sha256}', to_jsonb(encode(sha256('slip'), 'base64'))), not_before, $2, created_at
       from keys where key_id = $1`,
      [credential.keyId, rotationId],
    )
  })
  await rolling
  expect(await statesOf(credential.credentialId)).toEqual(['1 compromised retired', '2 compromised retired'])
})

describe('two that overlap', () => {
  test('the second joins what the first is still issuing for, whatever that has issued', async () => {
    const one = await fleet(3)
    const first = await rollOver(one.selector)
    // The first has issued one new key already.
    const [member] = await nextMembers(db, first.rolloverId, 1)
    if (member === undefined) throw new Error('there is no member')
    const { credentialId } = member
    await openRotation(db, { ...ASKED, rotationId: member.rotationId, credentialId, at: at(0) })
    await introduce(db, member.rotationId)
    await stage(first.rolloverId, 'paused')

    const two = await fleet(2)
    const both = { scope: [one.selector.scope, two.selector.scope] }
    expect(await previewRollover(db, { selector: both })).toMatchObject({ credentials: 5, keys: 2, joined: 3 })
    const second = await rollOver(both)
    expect(second).toMatchObject({ selected: 5, killed: 2 })
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect(await getRollover(db, second.rolloverId)).toMatchObject({ counts: { selected: 5, joined: 3, killed: 2 } })
    // Once the first has issued all it will, a new key counts like any other.
    await stage(first.rolloverId, 'confirming')
    await stage(second.rolloverId, 'cancelled')
    expect(await rollOver(one.selector)).toMatchObject({ selected: 3, killed: 1 })
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 compromised retired'])
  })

  test('at the same instant: each key dies once', async () => {
    const { members, selector } = await fleet(50)
    const [a, b] = await Promise.all([rollOver(selector), rollOver(selector)])
    expect([a.killed, b.killed].sort((x, y) => x - y)).toEqual([0, 50])
    expect([a.selected, b.selected]).toEqual([50, 50])
    const rows = await db.query(`select from audit where action = 'key.compromised' and subject = any($1)`, [
      members.map(({ keyId }) => keyId),
    ])
    expect(rows).toHaveLength(50)
  })
})

const ASKED = {
  trigger: 'emergency',
  reason: 'breach',
  actor: 'alice',
  policy: { overlapMs: 1_000 } as never,
} as const

describe('new keys', () => {
  test('an emergency opens with the dead key; one of a rollover never replaces a living one', async () => {
    const { members, selector } = await fleet(1)
    const { rolloverId } = await rollOver(selector)
    const [member] = await nextMembers(db, rolloverId, 10)
    if (member === undefined) throw new Error('there is no member')
    // Whoever asks again asks for the same rotation.
    expect(await nextMembers(db, rolloverId, 10)).toEqual([member])
    const { credentialId, rotationId } = member
    const asked = { ...ASKED, credentialId, at: at(0) }
    await expect(openRotation(db, { ...asked, rotationId: newRotationId(), trigger: 'manual' })).rejects.toMatchObject({
      code: 'illegal-transition',
    })
    const other = await openRotation(db, { ...asked, rotationId: newRotationId() })
    expect(other.oldKeyId).toBe(members[0]?.keyId)
    const { keyId } = await introduce(db, other.rotationId)
    expect(await keyOf(db, keyId)).toMatchObject({ standing: 'current', state: 'active', version: 2 })
    await db.query(`update rotations set stage = 'completed', ended_at = now() where rotation_id = $1`, [other.rotationId])
    await expect(openRotation(db, { ...asked, rotationId })).rejects.toMatchObject({
      code: 'illegal-transition',
      message: expect.stringContaining('has its new key already'),
    })
    await noteMember(db, { rolloverId, credentialId, rotationId: other.rotationId, at: at(3_000) })
    expect(await getRollover(db, rolloverId)).toMatchObject({ counts: { successors: 1, delivered: 1, failed: 0 }, remainder: [] })
  })

  test('what was cancelled before its turn is listed, and the next rollover looks after it', async () => {
    const { members, selector } = await fleet(2)
    const { rolloverId } = await rollOver(selector)
    await stage(rolloverId, 'cancelled')
    const { remainder, endedAt } = (await getRollover(db, rolloverId)) ?? {}
    expect(endedAt).toEqual(at(2_000))
    expect(remainder?.map(({ credentialId, why }) => [credentialId, why])).toEqual(
      members.map(({ credentialId }) => [credentialId, 'cancelled']).sort(),
    )
    expect(await previewRollover(db, { selector })).toMatchObject({ credentials: 2, keys: 0, joined: 0 })
    expect(await rollOver(selector)).toMatchObject({ selected: 2, killed: 0 })
  })
})

describe('refused, and nothing done', () => {
  test('an empty selector, without all', async () => {
    const code = 'empty-selector'
    await expect(rollOver({})).rejects.toMatchObject({ code })
    await expect(rollOver({ labels: {} })).rejects.toMatchObject({ code })
    await expect(previewRollover(db, { selector: {} })).rejects.toMatchObject({ code })
    expect((await previewRollover(db, { selector: {}, all: true })).credentials).toBeGreaterThan(0)
  })

  test('a selector that selects nobody', async () => {
    await expect(rollOver({ scope: 'nobody:*' })).rejects.toMatchObject({ code: 'unknown-credential' })
  })

  test('another count than was expected', async () => {
    const { members, selector } = await fleet(3)
    const [before] = await db.query<{ seq: number }>('select seq from audit_head')
    await expect(rollOver(selector, { expected: 2 })).rejects.toMatchObject({
      code: 'count-mismatch',
      message: expect.stringContaining('3 credentials are selected, not 2'),
    })
    expect(await statesOf(members[0]?.credentialId ?? '')).toEqual(['1 active current'])
    expect(await db.query<{ seq: number }>('select seq from audit_head')).toEqual([before])
  })
})
