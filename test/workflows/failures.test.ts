import {
  type CredentialId,
  DEFAULT_POLICY,
  PROBLEMS,
  type ProblemCode,
  type RotationId,
  type RotationProgress,
} from '@keyturn/contract'
import { ApplicationFailure } from '@temporalio/activity'
import { WorkflowFailedError } from '@temporalio/client'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { withFinalRefusals } from '../../activities/errors.ts'
import { triggerRotation } from '../../api/temporal.ts'
import { getCredential } from '../../registry/credentials.ts'
import { RegistryError } from '../../registry/errors.ts'
import { compromiseKey } from '../../registry/keys.ts'
import { eventually, type House } from '../support/house.ts'
import { type Obstacle, obstruct } from '../support/obstacles.ts'
import { openHouse } from '../support/open-house.ts'
import { type Standing, standAt } from '../support/standings.ts'

const WITHIN_MS = 60_000

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1 })
})
afterAll(() => house.close())

describe('which failures are final', () => {
  const FINAL: readonly ProblemCode[] = [
    'unknown-credential',
    'unknown-rotation',
    'unknown-leak',
    'unknown-rollover',
    'illegal-transition',
    'not-found',
  ]

  test.each(Object.keys(PROBLEMS) as ProblemCode[])('%s', async (code) => {
    const refusal = new RegistryError(code, 'a reason')
    const { work } = withFinalRefusals({ work: (): Promise<void> => Promise.reject(refusal) })
    const thrown: unknown = await work().catch((error: unknown) => error)
    if (FINAL.includes(code)) {
      expect(thrown).toBeInstanceOf(ApplicationFailure)
      expect(thrown).toMatchObject({ nonRetryable: true, type: code, message: 'a reason' })
    } else expect(thrown).toBe(refusal)
  })

  test('nothing else: a server that is away, a lock, a time-out are tried again', async () => {
    const away = new Error('connect ECONNREFUSED')
    const { work } = withFinalRefusals({ work: (): Promise<void> => Promise.reject(away) })
    await expect(work()).rejects.toBe(away)
  })

  test.each([
    ['22P02', true],
    ['22021', true],
    ['40001', false],
    ['57014', false],
    ['53300', false],
  ])('SQLSTATE %s of PostgreSQL: %s', async (code, isFinal) => {
    const refusal = Object.assign(new Error('invalid input syntax for type json: "the value"'), { code })
    const { work } = withFinalRefusals({ work: (): Promise<void> => Promise.reject(refusal) })
    const thrown: unknown = await work().catch((error: unknown) => error)
    if (isFinal) expect(thrown).toMatchObject({ nonRetryable: true, message: `PostgreSQL refuses a value (SQLSTATE ${code})` })
    else expect(thrown).toBe(refusal)
  })
})

describe('a step that fails for good holds the rotation; once the reason is gone, it is resumed and ends as it would have', () => {
  const heldTimes = async ({ rotationId }: Standing): Promise<number> =>
    (await house.rotation(rotationId)).timeline.filter(({ stage }) => stage === 'held').length

  /** Until it is held for the failure that the obstacle makes. */
  async function failed(rotation: Standing, times = 1): Promise<void> {
    await eventually(async () => (await heldTimes(rotation)) === times, 'held', WITHIN_MS)
    // The workflow knows it a moment after the registry.
    await eventually(
      async () => (await rotation.handle.query<RotationProgress>('progress')).stage === 'held',
      'held, for the workflow too',
      WITHIN_MS,
    )
    const { heldFor, timeline } = await house.rotation(rotation.rotationId)
    expect(heldFor).toBe('failure')
    expect(timeline.at(-1)?.reason).toMatch(/^key \w+ is \w+ and can not become \w+$/)
  }

  const steps: readonly { name: string; event: Obstacle['event']; order: Parameters<House['order']>[1]; ends: string }[] = [
    { name: 'deactivating', event: 'keyturn.key.deactivated', order: 'deactivateNow', ends: 'completed' },
    { name: 'extending', event: 'keyturn.key.deprecated', order: 'extend', ends: 'monitoring' },
    { name: 'reinstating the old key', event: 'keyturn.key.reinstated', order: 'rollBack', ends: 'rolled-back' },
    { name: 'retiring the new key', event: 'keyturn.key.deactivated', order: 'rollBack', ends: 'rolled-back' },
    { name: 'compromising the old key', event: 'keyturn.key.compromised', order: 'escalate', ends: 'completed' },
  ]
  test.each(steps)('G8: $name', async ({ event, order, ends }) => {
    const rotation = await standAt(house, 'monitoring', { regretWindowMs: 0 })
    const remove = await obstruct(house.db, rotation.credentialId, { refuses: 'change', event })
    await house.order(rotation, order)
    await failed(rotation)
    await house.order(rotation, 'resume')
    await failed(rotation, 2)
    await remove()
    await house.order(rotation, 'resume')
    await eventually(async () => (await house.rotation(rotation.rotationId)).stage === ends, ends, WITHIN_MS)
    const states = (await house.keys(rotation.credentialId)).map(({ state, standing }) => `${state} ${standing}`)
    expect(states.filter((state) => state === 'active current')).toHaveLength(1)
    expect(states.filter((state) => state.endsWith('successor'))).toHaveLength(ends === 'monitoring' ? 1 : 0)
    if (ends === 'monitoring') await rotation.handle.terminate('the test is over')
  })

  test('G8: notifying', async () => {
    const rotation = await standAt(house, 'held for a failure')
    await failed(rotation)
    await rotation.release()
    await house.order(rotation, 'resume')
    await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
    await rotation.handle.terminate('the test is over')
  })

  test('G9: a roll-back of a key that was compromised meanwhile rolls forward instead', async () => {
    const rotation = await standAt(house, 'monitoring')
    await compromiseKey(house.db, { keyId: rotation.keyId, at: new Date(), actor: 'somebody else', reason: 'a leak' })
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
    expect(house.verdicts(rotation.token)).toEqual([false])
    expect((await house.rotation(rotation.rotationId)).trigger).toBe('emergency')
  })
})

describe('a rotation that the registry does not open', () => {
  test('of a credential that there is not: whoever triggers it hears so, and the workflow ends', async () => {
    const known = await getCredential(house.db, (await house.credential()).credentialId)
    if (known === undefined) throw new Error('there is no credential')
    const unknown = { ...known, credentialId: 'crd_0000000000000000' as CredentialId }
    const triggered = triggerRotation(house.client, house.config.taskQueue, unknown, {
      rotationId: 'rot_0000000000000001' as RotationId,
      trigger: 'manual',
      reason: 'test',
      actor: 'test',
      policy: DEFAULT_POLICY,
    })
    await expect(triggered).rejects.toMatchObject({
      code: 'unknown-credential',
      message: `there is no credential ${unknown.credentialId}`,
    })
    const { status } = await house.client.workflow.getHandle(`rotation/${unknown.credentialId}`).describe()
    expect(status.name).toBe('FAILED')
  })

  test('of a credential whose key is compromised: the same', async () => {
    const { credentialId, keyId } = await house.credential()
    await compromiseKey(house.db, { keyId, at: new Date(), actor: 'somebody else', reason: 'a leak' })
    await expect(house.trigger(credentialId)).rejects.toMatchObject({
      code: 'illegal-transition',
      message: `credential ${credentialId} has no key to rotate`,
    })
  })
})

test('a rotation that the registry has forgotten ends at once, and the credential can be rotated anew', async () => {
  const rotation = await standAt(house, 'monitoring')
  await restoreFromBefore(rotation)
  // It may end before it has answered.
  await house.order(rotation, 'extend').catch(() => undefined)
  const ended = await rotation.handle.result().catch((error: unknown) => error)
  expect(ended).toBeInstanceOf(WorkflowFailedError)
  expect(String((ended as WorkflowFailedError).cause?.cause)).toContain(`there is no rotation ${rotation.rotationId}`)
  expect((await rotation.handle.fetchHistory()).events?.length).toBeLessThan(100)

  const again = await house.rotate(rotation.credentialId, { overlapMs: 600_000 })
  expect(again.rotationId).not.toBe(rotation.rotationId)
  await house.reached(again.rotationId, 'monitoring', WITHIN_MS)
  await again.handle.terminate('the test is over')
})

/** What a backup from before the rotation does to it when it is restored. */
async function restoreFromBefore({ rotationId }: Standing): Promise<void> {
  const client = new pg.Client({ connectionString: house.config.postgresUrl })
  await client.connect()
  try {
    await client.query('set session_replication_role = replica')
    for (const statement of [
      'delete from claims where key_id = (select new_key_id from rotations where rotation_id = $1)',
      'delete from keys where rotation_id = $1',
      'update keys set sunset_at = null, successor = null where key_id = (select old_key_id from rotations where rotation_id = $1)',
      'delete from receipts where rotation_id = $1',
      'delete from rotation_stages where rotation_id = $1',
      'delete from rotations where rotation_id = $1',
    ]) {
      await client.query(statement, [rotationId])
    }
  } finally {
    await client.end()
  }
}
