import type { RotationId, Trigger, TriggerAnswer } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type PlaceName, standAt } from '../support/standings.ts'

const SECOND = 1_000
const QUICK = { overlapMs: 600 * SECOND, quietPeriodMs: 0, regretWindowMs: 0, receiptWaitMs: 600 * SECOND } as const
const WITHIN_MS = 60_000

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
})
afterAll(() => house.close())

const statesOf = async (credentialId: Parameters<House['keys']>[0]) =>
  (await house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)

// Temporal takes ten updates of a workflow at a time: the others come again, and on a busy machine that takes its time.
describe('G6: triggers at the same time', { timeout: 300_000 }, () => {
  /** All at once, while a silent gateway keeps the rotation from ending. */
  async function atOnce(triggers: readonly Trigger[]) {
    const credential = await house.credential()
    await house.announceSilentGateway('gw-silent')
    const answers = await Promise.all(triggers.map((trigger) => house.trigger(credential.credentialId, QUICK, trigger))).finally(
      () => house.propagation.declareGone('gw-silent'),
    )
    const rotationIds = new Set(answers.map(({ rotationId }) => rotationId))
    const rows = await house.db.query('select from rotations where credential_id = $1', [credential.credentialId])
    expect(rotationIds.size).toBe(1)
    expect(rows).toHaveLength(1)
    expect(answers.filter(({ joined }) => !joined)).toHaveLength(1)
    return { ...credential, rotationId: answers[0]?.rotationId as RotationId, answers }
  }

  test('G6: fifty manual ones make one rotation and one new key', async () => {
    const { credentialId, rotationId } = await atOnce(Array.from({ length: 50 }, () => 'manual' as const))
    await house.reached(rotationId, 'monitoring', WITHIN_MS)
    expect(await statesOf(credentialId)).toEqual(['1 active current', '2 active successor'])
  })

  test('G6, G9: fifty of both kinds make one rotation and one new key; it ends as an emergency', async () => {
    const kinds = Array.from({ length: 50 }, (_, i) => (i % 3 === 1 ? ('emergency' as const) : ('manual' as const)))
    const { credentialId, rotationId } = await atOnce(kinds)
    await eventually(async () => (await house.rotation(rotationId)).endedAt !== undefined, 'the end', WITHIN_MS)
    expect(await house.rotation(rotationId)).toMatchObject({ stage: 'completed', trigger: 'emergency' })
    expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
  })
})

test('G6: a later trigger joins the running rotation', async () => {
  const rotation = await standAt(house, 'monitoring')
  const joined = await house.trigger(rotation.credentialId, QUICK)
  expect(joined).toEqual({ rotationId: rotation.rotationId, trigger: 'manual', joined: true })
  expect(await house.keys(rotation.credentialId)).toHaveLength(2)
})

describe('G6, G9: an emergency takes the rotation over', () => {
  const places: readonly PlaceName[] = ['introducing', 'notifying', 'monitoring', 'deactivating', 'rolling back']

  test.each(places)('in the stage %s', async (place) => {
    const rotation = await standAt(house, place)
    const answer = await house.trigger(rotation.credentialId, QUICK, 'emergency')
    expect(answer).toEqual({ rotationId: rotation.rotationId, trigger: 'emergency', joined: true })
    await rotation.release()
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
    expect(house.verdicts(rotation.token)).toEqual([false, false])
    const { trigger, newKeyId } = await house.rotation(rotation.rotationId)
    expect(trigger).toBe('emergency')
    const [current, ...more] = (await house.keys(rotation.credentialId)).filter(({ standing }) => standing === 'current')
    expect([current?.keyId, current?.state, more.length]).toEqual([newKeyId, 'active', 0])
    expect(house.verdicts(await house.claimNewKey(rotation.rotationId))).toEqual([true, true])
  })

  test('the search attribute says so', async () => {
    const rotation = await standAt(house, 'monitoring')
    const listed = async (query: string): Promise<boolean> => {
      for await (const { workflowId } of house.client.workflow.list({ query }))
        if (workflowId === rotation.handle.workflowId) return true
      return false
    }
    const { clientId, environment } = await house.rotation(rotation.rotationId)
    const common = `KeyturnClient = "${clientId}" and KeyturnEnvironment = "${environment}"`
    await eventually(() => listed(`${common} and KeyturnTrigger = "manual" and KeyturnStage = "monitoring"`), 'it in the list')
    await house.trigger(rotation.credentialId, QUICK, 'emergency')
    await rotation.handle.result()
    await eventually(() => listed(`${common} and KeyturnTrigger = "emergency" and KeyturnStage = "completed"`), 'its end')
    expect(await listed(`${common} and KeyturnTrigger = "manual"`)).toBe(false)
  })
})

test('G6: triggers while a rotation is closing join it or begin the next one, and none fails', async () => {
  const credential = await house.credential()
  const answers: TriggerAnswer[] = []
  const until = Date.now() + 12 * SECOND
  await Promise.all([
    // One that ends rotations as soon as they are monitored …
    (async () => {
      while (Date.now() < until) {
        const rotation = await house.rotate(credential.credentialId, QUICK)
        answers.push({ rotationId: rotation.rotationId, trigger: 'manual', joined: true })
        await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
        await house.order(rotation, 'deactivateNow').catch(() => undefined)
      }
    })(),
    // … and three that trigger all the time.
    ...[0, 1, 2].map(async (i) => {
      while (Date.now() < until) {
        answers.push(await house.trigger(credential.credentialId, QUICK))
        await new Promise((resolve) => setTimeout(resolve, 15 * i))
      }
    }),
  ])
  const rows = await house.db.query<{ rotation_id: RotationId; opened_at: Date; ended_at: Date | null }>(
    'select rotation_id, opened_at, ended_at from rotations where credential_id = $1 order by opened_at',
    [credential.credentialId],
  )
  expect(rows.length).toBeGreaterThan(2)
  expect(new Set(rows.map(({ rotation_id }) => rotation_id))).toEqual(new Set(answers.map(({ rotationId }) => rotationId)))
  expect(answers.filter(({ joined }) => !joined).length).toBeLessThanOrEqual(rows.length)
  for (const [i, { opened_at }] of rows.entries()) {
    const before = rows[i - 1]
    if (before !== undefined) expect(opened_at.getTime()).toBeGreaterThanOrEqual(before.ended_at?.getTime() ?? Infinity)
  }
  expect((await house.keys(credential.credentialId)).filter(({ standing }) => standing !== 'retired').length).toBeLessThanOrEqual(
    2,
  )
})

test('rotation after rotation, ten versions', async () => {
  const credential = await house.credential()
  const tokens = [credential.token]
  for (let version = 2; version <= 10; version++) {
    const rotation = await house.rotate(credential.credentialId, QUICK)
    await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
    const token = await house.claimNewKey(rotation.rotationId)
    await house.use(token)
    expect(await rotation.handle.result()).toBe('completed')
    expect(house.verdicts(tokens.at(-1) ?? '')).toEqual([false, false])
    tokens.push(token)
  }
  expect(await statesOf(credential.credentialId)).toEqual([
    ...Array.from({ length: 9 }, (_, i) => `${i + 1} deactivated retired`),
    '10 active current',
  ])
  expect(tokens.map((token) => house.verdicts(token))).toEqual(tokens.map((_, i) => (i === 9 ? [true, true] : [false, false])))
})
