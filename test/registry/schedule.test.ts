import { createHash } from 'node:crypto'
import { type CredentialId, DEFAULT_POLICY, type RotationStage, randomBase62, type ScheduledAs } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createClient } from '../../registry/clients.ts'
import { createCredential } from '../../registry/credentials.ts'
import type { Database } from '../../registry/database.ts'
import { applyPolicies } from '../../registry/policies.ts'
import { enterStage, openRotation } from '../../registry/rotations.ts'
import { countCredentials, dueCredentials, lastFailed, placeOfRank, scheduleState, waveStates } from '../../registry/schedule.ts'
import { at, DAY, newRotationId, openTestDatabase, sealer } from './world.ts'

const EVERYWHERE = [{ from: 0, to: 1, madeBy: at(0).getTime() }]

let db: Database
let clientId = ''
beforeAll(async () => {
  db = await openTestDatabase()
  ;({ clientId } = await createClient(db, { name: 'Acme', contacts: [], at: at(0), actor: 'test' }))
  const policies = ['due', 'waves', 'ranks', 'kept'].map((name) => ({ name, select: { labels: { policy: name } } }))
  await applyPolicies(db, { policies, order: 'file', prune: false, at: at(0), actor: 'test' })
})
afterAll(() => db.close())

const make = async (policy: string, ageDays = 100): Promise<CredentialId> =>
  (
    await createCredential(db, {
      clientId,
      name: randomBase62(8),
      environment: 'prod',
      scopes: [],
      labels: { policy },
      brand: 'kt',
      sealer,
      claimExpiresAt: at(DAY),
      at: at(-ageDays * DAY),
      actor: 'test',
    })
  ).credentialId

async function rotated(
  credentialId: CredentialId,
  policy: string,
  stage: RotationStage | undefined,
  scheduled?: ScheduledAs,
  openedAt = at(0),
) {
  const rotationId = newRotationId()
  await openRotation(db, {
    rotationId,
    credentialId,
    trigger: scheduled === undefined ? 'manual' : 'schedule',
    reason: 'test',
    policy: { ...DEFAULT_POLICY, name: policy },
    at: openedAt,
    actor: 'test',
    ...(scheduled === undefined ? {} : { scheduled }),
  })
  if (stage !== undefined) await enterStage(db, { rotationId, stage, at: openedAt, actor: 'test' })
  return rotationId
}

describe('who is due', () => {
  const due = async (more: Partial<Parameters<typeof dueCredentials>[1]> = {}): Promise<string[]> =>
    (await dueCredentials(db, { policy: 'due', sectors: EVERYWHERE, rolledBackBefore: at(0), limit: 100, ...more })).map(
      ({ credentialId }) => credentialId,
    )

  test('whose key is old enough, the oldest first; not who is being rotated, was just rolled back, or is suspended', async () => {
    const [young, old, older, rotating, back, suspended] = await Promise.all(
      [-1, 10, 20, 30, 40, 50].map((age) => make('due', age)),
    )
    if (rotating === undefined || back === undefined) throw new Error('they are made')
    expect(await due()).toEqual([suspended, back, rotating, older, old])
    expect(young).toBeDefined()
    await rotated(rotating, 'due', undefined)
    await rotated(back, 'due', 'rolled-back', undefined, at(-5))
    await db.tx(async (tx) => {
      await tx.query(`select set_config('session_replication_role', 'replica', true)`)
      await tx.query(`update keys set state = 'suspended' where credential_id = $1`, [suspended])
    })
    expect(await due()).toEqual([back, older, old])
    expect(await due({ rolledBackBefore: at(-6) })).toEqual([older, old])
    expect(await due({ limit: 1 })).toEqual([back])
  })

  test('by sectors: each place is in one', async () => {
    const whole = await due()
    const thirds = [0, 1, 2].map((i) => ({ from: i / 3, to: (i + 1) / 3, madeBy: at(0).getTime() }))
    expect(await due({ sectors: thirds })).toEqual(whole)
    const [first] = await dueCredentials(db, { policy: 'due', sectors: EVERYWHERE, rolledBackBefore: at(0), limit: 1 })
    if (first === undefined) throw new Error('one is due')
    const [before, from] = [
      { from: 0, to: first.place, madeBy: at(0).getTime() },
      { from: first.place, to: 1, madeBy: at(0).getTime() },
    ]
    expect(await due({ sectors: [before] })).not.toContain(first.credentialId)
    expect(await due({ sectors: [from] })).toContain(first.credentialId)
  })
})

test('places are from 0 to 1, ordered by rank', async () => {
  await Promise.all(Array.from({ length: 20 }, () => make('ranks')))
  const places = await Promise.all(Array.from({ length: 21 }, (_, rank) => placeOfRank(db, 'ranks', rank)))
  expect(places).toEqual(places.toSorted((a, b) => a - b))
  expect(places.at(-1)).toBe(1)
  expect(places[0]).toBeGreaterThanOrEqual(0)
  expect(new Set(places).size).toBe(21)
  expect(await countCredentials(db, 'ranks')).toBe(20)
})

test('a place comes from the id of its credential alone: it is the same in each cycle, and in a registry made anew', async () => {
  const credentialId = await make('kept')
  const fromId = Number.parseInt(createHash('md5').update(credentialId).digest('hex').slice(0, 7), 16) / 2 ** 28
  expect(await placeOfRank(db, 'kept', 0)).toBe(fromId)
  await db.query('update credentials set current_since = $2 where credential_id = $1', [credentialId, at(0)])
  expect(await placeOfRank(db, 'kept', 0)).toBe(fromId)
})

test('how the waves fare, what failed last, how many are open', async () => {
  const cycle = 7
  const start = async (wave: number, stage: RotationStage | undefined, minutes: number) =>
    rotated(await make('waves'), 'waves', stage, { cycle, wave }, at(minutes * 60_000))
  await start(0, 'completed', 1)
  await start(0, 'rolled-back', 2)
  await start(1, undefined, 3)
  const held = await start(1, 'held', 4)
  const waiting = newRotationId()
  const credentialId = await make('waves')
  await openRotation(db, {
    rotationId: waiting,
    credentialId,
    trigger: 'schedule',
    reason: 'test',
    policy: { ...DEFAULT_POLICY, name: 'waves' },
    scheduled: { cycle, wave: 1 },
    at: at(5 * 60_000),
    actor: 'test',
  })
  await enterStage(db, { rotationId: waiting, stage: 'held', heldFor: 'approval', at: at(5 * 60_000), actor: 'test' })
  await rotated(await make('waves'), 'waves', 'rolled-back', { cycle: cycle + 1, wave: 0 })
  await rotated(await make('waves'), 'waves', undefined)

  expect(await waveStates(db, 'waves', cycle, at(0))).toEqual([
    { wave: 0, started: 2, running: 0, failed: 1 },
    { wave: 1, started: 3, running: 2, failed: 1 },
  ])
  // What was opened before a person let the policy go on does not count.
  expect((await waveStates(db, 'waves', cycle, at(4 * 60_000))).map(({ failed }) => failed)).toEqual([0, 0])
  expect(await lastFailed(db, 'waves', cycle, at(0))).toMatchObject({ rotationId: held })
  expect(await scheduleState(db, 'waves')).toEqual({ open: 3, lastStartAt: at(5 * 60_000) })
  expect(await scheduleState(db, 'none')).toEqual({ open: 0 })
})
