import type { CredentialId, HeldFor, RotationProgress } from '@keyturn/contract'
import { CancelledFailure, WorkflowFailedError } from '@temporalio/client'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { listAudit } from '../../registry/audit.ts'
import { recordLeaks, toSighting } from '../../registry/leak-intake.ts'
import { getRotation, openRotationOf } from '../../registry/rotations.ts'
import type { rotateCredential } from '../../workflows/index.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type PlaceName, type Standing, standAt } from '../support/standings.ts'

const WITHIN_MS = 60_000
const MANY_EVENTS = 200

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
})
afterAll(() => house.close())

const progressOf = ({ handle }: Standing): Promise<RotationProgress> => handle.query<RotationProgress>('progress')
const standsIn = (rotation: Standing, stage: RotationProgress['stage']): Promise<unknown> =>
  eventually(async () => (await progressOf(rotation).catch(() => undefined))?.stage === stage, stage, WITHIN_MS)
/** It has come to a stage once more. */
const comesBackTo = (rotation: Standing, stage: RotationProgress['stage']): Promise<unknown> =>
  eventually(
    async () => {
      const progress = await progressOf(rotation).catch(() => undefined)
      return progress?.stage === stage && progress.timeline.filter((entry) => entry.stage === stage).length > 1
    },
    `${stage} again`,
    WITHIN_MS,
  )
const isHeldFor = (rotation: Standing, heldFor: HeldFor): Promise<unknown> =>
  eventually(
    async () => (await progressOf(rotation).catch(() => undefined))?.heldFor === heldFor,
    `held for ${heldFor}`,
    WITHIN_MS,
  )
const eventsOf = async ({ handle }: Standing): Promise<number> => (await handle.fetchHistory()).events?.length ?? 0

describe('a workflow that is cancelled', () => {
  const places: readonly PlaceName[] = [
    'introducing',
    'notifying',
    'monitoring',
    'held by a person',
    'held at the deadline',
    'held for a receipt',
    'deactivating',
    'rolling back',
  ]
  test.each(places)('G1: rolls back, once and in good order: %s', async (place) => {
    const rotation = await standAt(house, place)
    await rotation.handle.cancel()
    await rotation.release()
    expect(await rotation.handle.result()).toBe('rolled-back')
    expect(house.verdicts(rotation.token)).toEqual([true, true])
    expect((await house.keys(rotation.credentialId)).map(({ state, standing }) => `${state} ${standing}`)).toEqual([
      'active current',
      'deactivated retired',
    ])
    expect(await eventsOf(rotation)).toBeLessThan(MANY_EVENTS)
    if (place === 'rolling back') return
    const entries = await listAudit(house.db, { rotationId: rotation.rotationId, limit: 100 })
    expect(entries.find(({ action }) => action === 'rotation.rolling-back')).toMatchObject({
      actor: 'temporal',
      detail: { reason: 'the workflow was cancelled' },
    })
  })

  test('G9: goes on when it is an emergency', async () => {
    const rotation = await standAt(house, 'an emergency')
    await rotation.handle.cancel()
    await rotation.release()
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
  })

  test('G9: can still become an emergency', async () => {
    const rotation = await standAt(house, 'rolling back')
    await rotation.handle.cancel()
    await house.order(rotation, 'escalate')
    await rotation.release()
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
  })

  test('just ends when nobody has asked it for a rotation yet', async () => {
    const { credentialId } = await house.credential()
    const handle = await house.client.workflow.start('rotateCredential', {
      workflowId: `rotation/${credentialId}`,
      taskQueue: house.config.taskQueue,
      args: [{ credentialId }],
    })
    await handle.cancel()
    const failed = await handle.result().catch((error: unknown) => error)
    expect(failed).toBeInstanceOf(WorkflowFailedError)
    expect((failed as WorkflowFailedError).cause).toBeInstanceOf(CancelledFailure)
    expect(await openRotationOf(house.db, credentialId)).toBeUndefined()
  })
})

describe('a workflow that nobody has asked for a rotation, because the update was lost', () => {
  const start = (credentialId: CredentialId, requestWithinMs?: number) =>
    house.client.workflow.start<typeof rotateCredential>('rotateCredential', {
      workflowId: `rotation/${credentialId}`,
      taskQueue: house.config.taskQueue,
      args: [{ credentialId, ...(requestWithinMs === undefined ? {} : { requestWithinMs }) }],
    })

  test('G8: ends by itself, and leaves no trace; the API gives it a minute', async () => {
    const { credentialId } = await house.credential()
    const handle = await start(credentialId, 100)
    expect(await handle.result()).toBe('requested')
    expect(await openRotationOf(house.db, credentialId)).toBeUndefined()
    const { handle: asked } = await house.rotate(credentialId)
    const [first] = (await asked.fetchHistory()).events ?? []
    const [input] = first?.workflowExecutionStartedEventAttributes?.input?.payloads ?? []
    expect(JSON.parse(Buffer.from(input?.data ?? []).toString())).toEqual({ credentialId, requestWithinMs: 60_000 })
  })

  test('G6, G8: takes a request that comes just then, or leaves it to the next run: none is lost half-way', async () => {
    const race = async (afterMs: number): Promise<string> => {
      const { credentialId } = await house.credential()
      const handle = await start(credentialId, 100)
      const begun = Date.now()
      await eventually(() => Date.now() - begun >= afterMs, 'its time')
      const { rotationId } = await house.trigger(credentialId)
      expect(await openRotationOf(house.db, credentialId)).toMatchObject({ rotationId })
      const first = house.client.workflow.getHandle(handle.workflowId, handle.firstExecutionRunId)
      return (await first.describe()).status.name
    }
    // How soon the server lets a timer go off is its own affair: from before it to well after it.
    const outcomes = new Set(await Promise.all(Array.from({ length: 15 }, (_, i) => race(150 * i))))
    expect([...outcomes].sort()).toEqual(['COMPLETED', 'RUNNING'])
  })

  test.each([undefined, 600_000])('G6, G9: is not in the way of a leak (%s)', async (requestWithinMs) => {
    const { credentialId, token, keyId } = await house.credential(['trade:write'])
    const handle = await start(credentialId, requestWithinMs)
    await eventually(async () => ((await handle.fetchHistory()).events?.length ?? 0) >= 4, 'its first step', WITHIN_MS)
    const sightings = [toSighting({ token, source: 'test' })]
    const [leak] = await recordLeaks(house.db, { sightings, reporter: 'operator', at: new Date() })
    await house.client.workflow.start('respondToLeak', {
      workflowId: `leak/${leak?.leakId}`,
      taskQueue: house.config.taskQueue,
      args: [{ leakId: leak?.leakId }],
    })
    await eventually(
      async () => (await house.keys(credentialId)).some(({ version, standing }) => version === 2 && standing === 'current'),
      'a new key',
      WITHIN_MS,
    )
    expect(await house.keyState(keyId)).toBe('compromised')
    expect(await handle.result()).toBe('requested')
  })
})

describe('a workflow that was terminated: the next trigger goes on with the rotation that it has left', () => {
  /** Terminates it; a person finds that out, and triggers the credential again. */
  async function terminated(place: PlaceName, trigger: 'manual' | 'emergency' = 'manual'): Promise<Standing> {
    const rotation = await standAt(house, place)
    await rotation.handle.terminate('by mistake')
    await expect(house.order(rotation, 'rollBack')).rejects.toMatchObject({
      code: 'wrong-stage',
      message: expect.stringContaining('trigger a rotation of the credential, which goes on with this one'),
    })
    await rotation.release()
    const answer = await house.trigger(rotation.credentialId, {}, trigger)
    const before = await getRotation(house.db, rotation.rotationId)
    const kind = before?.trigger === 'emergency' ? 'emergency' : trigger
    expect(answer).toEqual({ rotationId: rotation.rotationId, trigger: kind, joined: true })
    const entries = await listAudit(house.db, { rotationId: rotation.rotationId, limit: 100 })
    expect(entries.filter(({ action }) => action === 'rotation.adopted')).toHaveLength(1)
    return { ...rotation, handle: house.client.workflow.getHandle(rotation.handle.workflowId) }
  }

  async function versionsOf({ credentialId }: Standing): Promise<string[]> {
    return (await house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)
  }

  test.each(['introducing', 'notifying', 'monitoring', 'held for a receipt', 'held for a failure'] as const)(
    'G8: %s: it ends as it would have',
    async (place) => {
      const rotation = await terminated(place)
      await standsIn(rotation, 'monitoring')
      await house.use(await house.claimNewKey(rotation.rotationId))
      await standsIn(rotation, 'deactivating')
      expect(await versionsOf(rotation)).toEqual(['1 deactivated retired', '2 active current'])
      await rotation.handle.terminate('the test is over')
    },
  )

  test('G8: held by a person: it is held again', async () => {
    const rotation = await terminated('held by a person')
    await comesBackTo(rotation, 'held')
    await isHeldFor(rotation, 'operator')
    await house.order(rotation, 'resume')
    await standsIn(rotation, 'monitoring')
    await rotation.handle.terminate('the test is over')
  })

  test('G8: held at the deadline: it is held again, at the same one', async () => {
    const rotation = await terminated('held at the deadline')
    const { deadline } = await house.rotation(rotation.rotationId)
    await comesBackTo(rotation, 'held')
    await isHeldFor(rotation, 'deadline')
    expect((await progressOf(rotation)).deadline).toBe(deadline?.toISOString())
    await house.order(rotation, 'approve')
    await standsIn(rotation, 'deactivating')
    await rotation.handle.terminate('the test is over')
  })

  test.each(['deactivating', 'held for the last receipt'] as const)(
    'G1, G8: %s: it watches for regret, and can go back',
    async (place) => {
      const rotation = await terminated(place)
      await standsIn(rotation, 'deactivating')
      expect(await versionsOf(rotation)).toEqual(['1 deactivated retired', '2 active current'])
      await house.order(rotation, 'rollBack')
      expect(await rotation.handle.result()).toBe('rolled-back')
      expect(house.verdicts(rotation.token)).toEqual([true, true])
    },
  )

  test('G8: rolling back: it goes on to roll back, for the same reason', async () => {
    const rotation = await terminated('rolling back')
    expect(await rotation.handle.result()).toBe('rolled-back')
    expect(await versionsOf(rotation)).toEqual(['1 active current', '2 deactivated retired'])
    expect((await house.rotation(rotation.rotationId)).timeline.at(-1)?.reason).toBe('rollBack by test')
  })

  test('G8, G9: an emergency: it goes on as one, also for a manual trigger', async () => {
    const rotation = await terminated('an emergency')
    expect(await rotation.handle.result()).toBe('completed')
    expect(await versionsOf(rotation)).toEqual(['1 compromised retired', '2 active current'])
    expect((await house.rotation(rotation.rotationId)).trigger).toBe('emergency')
  })

  test.each(['monitoring', 'deactivating', 'rolling back'] as const)('G9: %s: an emergency takes it over', async (place) => {
    const rotation = await terminated(place, 'emergency')
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
    expect((await house.rotation(rotation.rotationId)).trigger).toBe('emergency')
    expect(house.verdicts(rotation.token)).toEqual([false, false])
  })

  test('the query shows what has been, and the trigger that went on with it is in the audit log', async () => {
    const rotation = await terminated('monitoring')
    await comesBackTo(rotation, 'monitoring')
    const { timeline } = await progressOf(rotation)
    expect(timeline.map(({ stage }) => stage)).toEqual([
      ...['requested', 'introducing', 'notifying', 'monitoring'],
      ...['introducing', 'notifying', 'monitoring'],
    ])
    expect((await house.rotation(rotation.rotationId)).timeline.map(({ stage }) => stage)).toEqual(
      timeline.map(({ stage }) => stage),
    )
    await rotation.handle.terminate('the test is over')
  })
})
