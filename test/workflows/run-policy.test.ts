import {
  type Alert,
  type CredentialId,
  decodeAlertEvent,
  type Policy,
  type RotationId,
  randomBase62,
  rotationWorkflowId,
} from '@keyturn/contract'
import { POLICY_CHANGED, type PolicyRunReport } from '@keyturn/contract/policy-run'
import type { WorkflowHandleWithFirstExecutionRunId } from '@temporalio/client'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { createClient } from '../../registry/clients.ts'
import { createCredential } from '../../registry/credentials.ts'
import { applyPolicies, getPolicy, removePolicy, resumePolicy } from '../../registry/policies.ts'
import type { rotateCredential, runPolicy } from '../../workflows/index.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { readTopic } from '../support/topics.ts'

const MINUTE = 60_000
const DAY = 24 * 60 * MINUTE
const BUSY_MS = 5 * 60_000

/**
 * All at once: where it does not matter when. The time-skipping server stops to skip time for good once a child has ended whose parent
 * has ended before; so tests in which rotations end need no time to pass.
 */
const AT_ONCE = { rate: '9999999/s', regretWindow: '0s' } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 0, collector: false })
})
afterAll(() => house.close())

interface Fleet {
  readonly name: string
  readonly credentialIds: readonly CredentialId[]
  set(policy: Partial<Policy>): Promise<void>
  run(): Promise<WorkflowHandleWithFirstExecutionRunId<typeof runPolicy>>
  /** Those that are on record, when there are so many. */
  rotations(count: number): Promise<Opened[]>
}

interface Opened {
  readonly rotation_id: RotationId
  readonly credential_id: CredentialId
  readonly trigger: string
  readonly stage: string
  readonly cycle: number
  readonly wave: number
  readonly opened_at: Date
}

/** Credentials with keys that are 100 days old, and a policy of their own. */
async function fleet(count: number, policy: Partial<Policy> = {}): Promise<Fleet> {
  const name = `p${randomBase62(8).toLowerCase()}`
  const made = new Date(house.now() - 100 * DAY)
  const { clientId } = await createClient(house.db, { name: 'Acme', contacts: [], at: made, actor: 'test' })
  const credentialIds: CredentialId[] = []
  for (let i = 0; i < count; i++) {
    const credential = await createCredential(house.db, {
      clientId,
      name: `feed-${i}`,
      environment: 'prod',
      scopes: ['read'],
      labels: { fleet: name },
      brand: 'kt',
      sealer: house.sealer,
      claimExpiresAt: new Date(made.getTime() + DAY),
      at: made,
      actor: 'test',
    })
    credentialIds.push(credential.credentialId)
  }
  const set = async (more: Partial<Policy>): Promise<void> => {
    const policies = [{ name, select: { labels: { fleet: name } }, ...AT_ONCE, ...policy, ...more }]
    await applyPolicies(house.db, { policies, order: 'keep', prune: false, at: new Date(house.now()), actor: 'test' })
  }
  await set({})
  return {
    name,
    credentialIds,
    set,
    run: () =>
      house.client.workflow.start<typeof runPolicy>('runPolicy', {
        workflowId: `run/${name}/${randomBase62(6)}`,
        taskQueue: house.config.taskQueue,
        args: [{ policy: name }],
      }),
    rotations: (wanted) =>
      eventually(
        async () => {
          const all = await house.db.query<Opened>('select * from rotations where policy_name = $1 order by opened_at', [name])
          return all.length === wanted && all
        },
        `${wanted} rotations of ${name} on record`,
        BUSY_MS,
      ),
  }
}

/** A run from its start to its end. */
async function runOf(one: Fleet): Promise<PolicyRunReport> {
  const report = await (await one.run()).result()
  await house.pass(0)
  return report
}

const order = async (one: Opened | undefined, update: 'rollBack' | 'deactivateNow' | 'hold'): Promise<void> => {
  if (one === undefined) throw new Error('there is no such rotation')
  const handle = house.client.workflow.getHandle<typeof rotateCredential>(rotationWorkflowId(one.credential_id))
  await house.order({ credentialId: one.credential_id, rotationId: one.rotation_id, handle }, update)
}

describe('a run of a policy', () => {
  test('starts what is due at its rate; each rotation says which policy', async () => {
    const four = await fleet(4, { rate: '60/h' })
    expect(await runOf(four)).toMatchObject({ started: 4, joined: 0, ended: 'done' })
    const rotations = await four.rotations(4)
    expect(new Set(rotations.map(({ credential_id }) => credential_id)).size).toBe(4)
    expect(new Set(rotations.map(({ trigger }) => trigger))).toEqual(new Set(['schedule']))
    const times = rotations.map(({ opened_at }) => opened_at.getTime())
    for (const [i, time] of times.slice(1).entries()) expect(time - (times[i] ?? 0)).toBeGreaterThan(0.95 * MINUTE)

    const [entry] = await listAudit(house.db, { rotationId: rotations[0]?.rotation_id ?? '', limit: 1 })
    expect(entry).toMatchObject({
      action: 'rotation.requested',
      actor: `policy:${four.name}`,
      detail: { reason: `policy ${four.name}: every 90d` },
    })
  })

  test('goes through many page by page, with short histories, and misses none', { timeout: BUSY_MS }, async () => {
    const many = await fleet(110)
    const handle = await many.run()
    expect(await handle.result()).toMatchObject({ started: 110, joined: 0, ended: 'done' })
    expect(new Set((await many.rotations(110)).map(({ credential_id }) => credential_id)).size).toBe(110)
    const { history } = await house.client.workflowService.getWorkflowExecutionHistory({
      namespace: 'default',
      execution: { workflowId: handle.workflowId, runId: handle.firstExecutionRunId },
    })
    const events = history?.events ?? []
    expect(events.at(-1)?.workflowExecutionContinuedAsNewEventAttributes).toBeTruthy()
    expect(events.length).toBeLessThan(1_000)
    expect((await runOf(many)).started).toBe(0)
  })

  test('leaves young keys alone, and those that are being rotated', async () => {
    const few = await fleet(3)
    const [rotating] = few.credentialIds
    if (rotating === undefined) throw new Error('there is one')
    await house.rotate(rotating)
    expect(await runOf(few)).toMatchObject({ started: 2, joined: 0 })
    await few.rotations(2)
    expect(await runOf(few)).toMatchObject({ started: 0, joined: 0, ended: 'done' })
  })

  test('G6: a rotation that somebody starts meanwhile is joined, not failed', async () => {
    const two = await fleet(2, { rate: '60/h' })
    const handle = await two.run()
    const [first] = await two.rotations(1)
    const other = two.credentialIds.find((id) => id !== first?.credential_id)
    if (other === undefined) throw new Error('there is another')
    const { rotationId } = await house.trigger(other)
    expect(await handle.result()).toMatchObject({ started: 1, joined: 1 })
    const rows = await house.db.query('select rotation_id from rotations where credential_id = $1', [other])
    expect(rows).toEqual([{ rotation_id: rotationId }])
  })

  test('no more than the policy allows are open at once', async () => {
    const five = await fleet(5, { concurrency: 2, stopAbove: '100%' })
    expect(await runOf(five)).toMatchObject({ started: 2, ended: 'full' })
    expect(await runOf(five)).toMatchObject({ started: 0, ended: 'full' })
    const [first] = await five.rotations(2)
    await house.reached(first?.rotation_id as RotationId, 'monitoring')
    await order(first, 'rollBack')
    await house.reached(first?.rotation_id as RotationId, 'rolled-back')
    expect(await runOf(five)).toMatchObject({ started: 1, ended: 'full' })
  })

  test('starts nothing in a blackout', async () => {
    const today = new Date(house.now())
    const tomorrow = new Date(house.now() + DAY)
    const dates = [today, tomorrow].map((day) => day.toISOString().slice(0, 10))
    const quiet = await fleet(2, { blackout: [{ timeZone: 'UTC', dates }] })
    expect(await runOf(quiet)).toMatchObject({ started: 0, ended: 'closed' })
    await quiet.set({ blackout: [] })
    expect(await runOf(quiet)).toMatchObject({ started: 2 })
  })
})

describe('a policy that changes while it runs', () => {
  const begun = async (one: Fleet) => {
    const handle = await one.run()
    await one.rotations(1)
    return handle
  }

  test('removed: what has been started goes on, and nothing more is started', async () => {
    const three = await fleet(3, { rate: '12/h' })
    const handle = await begun(three)
    await removePolicy(house.db, { name: three.name, at: new Date(house.now()), actor: 'ann' })
    await handle.signal(POLICY_CHANGED)
    expect(await handle.result()).toMatchObject({ started: 1, ended: 'gone' })
    const [first] = await three.rotations(1)
    await house.reached(first?.rotation_id as RotationId, 'monitoring')
  })

  test('changed: what is started from now on is as it says now', async () => {
    const three = await fleet(3, { rate: '12/h', overlap: '10d' })
    const handle = await begun(three)
    await three.set({ ...AT_ONCE, overlap: '5d' })
    await handle.signal(POLICY_CHANGED)
    expect(await handle.result()).toMatchObject({ started: 3 })
    const overlaps = await eventually(async () => {
      const rows = await house.db.query<{ days: number }>(
        `select (policy ->> 'overlapMs')::bigint / 86400000 as days from rotations where policy_name = $1 order by opened_at`,
        [three.name],
      )
      return rows.length === 3 && rows.map(({ days }) => days)
    }, 'three rotations')
    expect(overlaps).toEqual([10, 5, 5])
  })
})

describe('waves', () => {
  const inWaves = {
    waves: [{ size: 1 }, { size: '50%' }, { size: '100%' }],
    overlap: '2d',
    quietPeriod: '1h',
  } as const

  test('each begins when the one before has ended well', async () => {
    const eight = await fleet(8, { ...inWaves, waves: [...inWaves.waves] })
    expect(await runOf(eight)).toMatchObject({ started: 1 })
    const [canary] = await eight.rotations(1)
    expect(await runOf(eight)).toMatchObject({ started: 0, ended: 'waiting' })
    expect(canary).toMatchObject({ wave: 0 })
    await house.reached(canary?.rotation_id as RotationId, 'monitoring')
    await order(canary, 'deactivateNow')
    await house.reached(canary?.rotation_id as RotationId, 'completed')
    expect(await runOf(eight)).toMatchObject({ started: 4 })
    const five = await eight.rotations(5)
    expect(await runOf(eight)).toMatchObject({ started: 0, ended: 'waiting' })
    expect(five.map(({ wave }) => wave)).toEqual([0, 1, 1, 1, 1])
  })

  test('when too many of one fail, nothing more is started: people are told, and let it go on', async () => {
    const eight = await fleet(8, { ...inWaves, waves: [...inWaves.waves] })
    await runOf(eight)
    const [canary] = await eight.rotations(1)
    await house.reached(canary?.rotation_id as RotationId, 'monitoring')
    await order(canary, 'rollBack')
    await house.reached(canary?.rotation_id as RotationId, 'rolled-back')
    expect(await runOf(eight)).toMatchObject({ started: 0, ended: 'stopped' })
    expect(await runOf(eight)).toMatchObject({ started: 0, ended: 'stopped' })
    expect((await getPolicy(house.db, eight.name))?.stopped?.reason).toBe(
      '1 of the 1 rotations of wave 1 are held or rolled back',
    )
    const alerts = (await alertsOf(canary?.credential_id ?? '')).filter(({ kind }) => kind === 'policy-stopped')
    expect(alerts).toMatchObject([{ rotationId: canary?.rotation_id }])
    expect(alerts[0]?.detail).toContain(`keyturn policy resume ${eight.name}`)

    await resumePolicy(house.db, { name: eight.name, reason: 'looked at it', at: new Date(house.now()), actor: 'ann' })
    expect(await runOf(eight)).toMatchObject({ started: 4 })
  })

  test('a held one counts as failed, as long as it is held', async () => {
    const ten = await fleet(10, { waves: [{ size: 5 }, { size: '100%' }], stopAbove: '20%' })
    expect(await runOf(ten)).toMatchObject({ started: 5 })
    const [first, second] = await ten.rotations(5)
    // One of five is a fifth, and not more.
    for (const [one, ended] of [
      [first, 'waiting'],
      [second, 'stopped'],
    ] as const) {
      await house.reached(one?.rotation_id as RotationId, 'monitoring')
      await order(one, 'hold')
      expect(await runOf(ten)).toMatchObject({ ended })
    }
  })
})

/** All that is on the alerts topic for a credential. */
const alertsOf = async (credentialId: string): Promise<Alert[]> =>
  (await readTopic(house.config.topics.alerts)).flatMap(({ key, value = '' }) => {
    const decoded = decodeAlertEvent(value)
    return key === credentialId && decoded.ok ? [decoded.event.data] : []
  })
