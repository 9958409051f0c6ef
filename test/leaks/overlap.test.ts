/** Keys that are replaced within a short overlap: the playbook of keys that only read. Time is skipped. */
import type { CredentialId, KeyId, RotationProgress } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { incidentMarkdown } from '../../api/leak-report-text.ts'
import type { ServedApi } from '../support/api.ts'
import { eventually, type House, type TestCredential } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { closed, leakOf, report, startApi } from '../support/reporting.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const POLICY = { overlapMs: 14 * DAY, quietPeriodMs: DAY, regretWindowMs: HOUR } as const

let house: House
let api: ServedApi
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 2 })
  api = await startApi(house)
})
afterAll(async () => {
  await api.stop()
  await house.close()
})

async function useFrom(token: string, address: string, times = 1): Promise<void> {
  const [gateway] = house.gateways
  for (let i = 0; i < times; i++)
    gateway?.authenticate({ headers: { authorization: `Bearer ${token}`, 'user-agent': 'curl/8' }, address })
  await house.settleUsage()
}

const statesOf = async (credentialId: CredentialId) =>
  (await house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)

/** Reports a key, and waits until the leak's rotation is in its overlap window. */
async function leaked(credential: TestCredential) {
  const { leakId } = await report(api, { token: credential.token, source: 'a person' })
  const { rotationId } = await eventually(async () => {
    const leak = await leakOf(house, leakId)
    return leak.rotationId === undefined ? undefined : { rotationId: leak.rotationId }
  }, 'the rotation of the leak')
  await house.reached(rotationId, 'monitoring')
  return { leakId, rotationId }
}

async function monitored(policy: Parameters<House['rotate']>[1] = {}) {
  const credential = await house.credential()
  const rotation = await house.rotate(credential.credentialId, { ...POLICY, ...policy })
  await house.reached(rotation.rotationId, 'monitoring')
  const { newKeyId } = await house.rotation(rotation.rotationId)
  return { ...credential, ...rotation, newKeyId: newKeyId as KeyId, newToken: await house.claimNewKey(rotation.rotationId) }
}

const inMinutes = (later: Date | undefined, earlier: number): number => Math.round(((later?.getTime() ?? 0) - earlier) / MINUTE)

describe('a live key', () => {
  test('goes on for an hour beside its successor, and then dies, whatever the client has done; the report says who used it', async () => {
    const credential = await house.credential()
    await useFrom(credential.token, '192.0.2.1', 3)
    const { leakId, rotationId } = await leaked(credential)
    const opened = house.now()
    const { deadline, trigger, policy } = await house.rotation(rotationId)
    expect(trigger).toBe('leak')
    expect(inMinutes(deadline, opened)).toBe(60)
    expect(policy).toMatchObject({ onDeadline: 'force', regretWindowMs: 0, successorByOldKey: false })
    expect(house.verdicts(credential.token)).toEqual([true, true])

    await house.pass(30 * MINUTE)
    await useFrom(credential.token, '192.0.2.1', 4)
    await useFrom(credential.token, '203.0.113.66', 2)
    expect(await house.keyState(credential.keyId)).toBe('active')
    await house.pass(30 * MINUTE)
    await eventually(() => house.verdicts(credential.token).every((accepted) => !accepted), 'the leaked key refused')
    await useFrom(credential.token, '203.0.113.66')
    const done = await closed(house, leakId)
    expect(await statesOf(credential.credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect(done.rotation?.timeline.map(({ stage }) => stage)).toEqual([
      'requested',
      'introducing',
      'notifying',
      'monitoring',
      'deactivating',
      'notifying',
      'completed',
    ])
    expect(done.usage).toMatchObject({
      requests: 6,
      newSources: [{ address: '203.0.113.66', userAgent: 'curl/8' }],
      knownSources: [{ address: '192.0.2.1', count: 4 }],
      sourcesComplete: true,
    })
    expect(done.usage?.newSources[0]?.count).toBeGreaterThanOrEqual(2)
    expect(incidentMarkdown(done)).toContain('| **new** | 203.0.113.66 | curl/8 |')
    // Neither the overlap nor traffic makes its history longer.
    const { events } = await house.client.workflow.getHandle(`leak/${leakId}`).fetchHistory()
    expect(events?.length).toBeLessThan(60)
    // The client that slept through all of it still gets its key.
    expect(house.verdicts(await house.claimNewKey(rotationId))).toEqual([true, true])
  })

  test('dies before that, once the client has switched over and the old key is quiet', async () => {
    const credential = await house.credential()
    await useFrom(credential.token, '192.0.2.1')
    const { leakId, rotationId } = await leaked(credential)
    const opened = house.now()
    await house.use(await house.claimNewKey(rotationId))
    await house.pass(16 * MINUTE)
    const done = await closed(house, leakId)
    expect(inMinutes(done.rotation?.endedAt, opened)).toBeLessThan(20)
    expect(await statesOf(credential.credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect(done.rotation?.timeline.map(({ stage }) => stage)).toEqual([
      'requested',
      'introducing',
      'notifying',
      'monitoring',
      'deactivating',
      'completed',
    ])
    expect(done.usage).toMatchObject({ requests: 0, newSources: [] })
  })

  test('its end neither moves nor waits, and the rotation does not go back', async () => {
    const credential = await house.credential()
    const { rotationId, leakId } = await leaked(credential)
    const rotation = await house.rotate(credential.credentialId)
    expect(rotation.rotationId).toBe(rotationId)
    for (const update of ['extend', 'hold', 'rollBack'] as const)
      await expect(house.order(rotation, update, HOUR)).rejects.toThrow()
    await house.order(rotation, 'deactivateNow')
    await closed(house, leakId)
    expect(await statesOf(credential.credentialId)).toEqual(['1 compromised retired', '2 active current'])
  })
})

describe('a key in a running rotation', () => {
  test('G6: a leak of the old key shortens the rotation; the client is told again, and the key dies in time', async () => {
    const rotation = await monitored()
    await house.pass(DAY)
    const reportedAt = house.now()
    const { leakId, matched } = await report(api, { token: rotation.token })
    expect(matched).toBe('old')
    const shortened = await eventually(async () => {
      const now = await house.rotation(rotation.rotationId)
      return now.stage === 'monitoring' && now.deadline !== undefined && now.deadline.getTime() < reportedAt + 2 * HOUR
        ? now
        : undefined
    }, 'the shortened window')
    expect(inMinutes(shortened.deadline, reportedAt)).toBe(60)
    expect((await house.keys(rotation.credentialId))[0]?.sunsetAt).toEqual(shortened.deadline)
    expect(shortened.timeline.map(({ stage }) => stage)).toEqual([
      'requested',
      'introducing',
      'notifying',
      'monitoring',
      'notifying',
      'monitoring',
    ])
    await house.pass(HOUR)
    await eventually(() => house.verdicts(rotation.token).every((accepted) => !accepted), 'the leaked key refused')
    const done = await closed(house, leakId)
    expect(done.leak).toMatchObject({ matched: 'old', response: 'overlap', rotationId: rotation.rotationId })
    expect(done.rotation).toMatchObject({ stage: 'completed', trigger: 'leak' })
    expect(await statesOf(rotation.credentialId)).toEqual(['1 compromised retired', '2 active current'])
  })

  test('G6: a window that ends sooner anyway is not made longer', async () => {
    const rotation = await monitored()
    await house.pass(14 * DAY - 20 * MINUTE)
    const { deadline } = await house.rotation(rotation.rotationId)
    const { leakId } = await report(api, { token: rotation.token })
    await eventually(async () => (await leakOf(house, leakId)).response === 'overlap', 'the response')
    await eventually(async () => (await house.rotation(rotation.rotationId)).timeline.length > 5, 'the second notice')
    expect((await house.rotation(rotation.rotationId)).deadline).toEqual(deadline)
    await house.pass(20 * MINUTE + 1_000)
    await closed(house, leakId)
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
  })

  test('G9: it does not get back the time that is just being added to the window', async () => {
    const rotation = await monitored()
    const lock = await house.db.pool.connect()
    await lock.query('begin')
    await lock.query('select from rotations where rotation_id = $1 for no key update', [rotation.rotationId])
    const begun = house.now()
    // It is being stored, and waits for the lock.
    await house.order(rotation, 'extend', 7 * DAY)
    const leak = { leakId: 'leak_0000000000000000', keyId: rotation.keyId, atOnce: false, overlapMs: HOUR }
    await rotation.handle.signal('leak', { ...leak, reason: 'test', actor: 'test' })
    const shortened = () => rotation.handle.query<RotationProgress>('progress').then(({ deadline = '' }) => Date.parse(deadline))
    await eventually(async () => inMinutes(new Date(await shortened()), begun) === 60, 'the shortened window')
    await lock.query('commit')
    lock.release()
    await eventually(async () => {
      const { timeline, stage } = await house.rotation(rotation.rotationId)
      return stage === 'monitoring' && timeline.length > 5
    }, 'the second notice')
    expect(inMinutes((await house.rotation(rotation.rotationId)).deadline, begun)).toBe(60)
    expect(inMinutes(new Date(await shortened()), begun)).toBe(60)
    expect(inMinutes((await house.keys(rotation.credentialId))[0]?.sunsetAt, begun)).toBe(60)
    await house.pass(HOUR)
    await eventually(async () => (await house.keyState(rotation.keyId)) === 'compromised', 'its end')
  })

  test('G6: it dies in time while the rotation is held for a person, too', async () => {
    const rotation = await monitored()
    await house.order(rotation, 'hold')
    await house.reached(rotation.rotationId, 'held')
    const { leakId } = await report(api, { token: rotation.token })
    await eventually(async () => (await leakOf(house, leakId)).rotationId !== undefined, 'the response')
    await house.pass(HOUR + 1_000)
    await eventually(() => house.verdicts(rotation.token).every((accepted) => !accepted), 'the leaked key refused')
    await closed(house, leakId)
    expect(await statesOf(rotation.credentialId)).toEqual(['1 compromised retired', '2 active current'])
  })

  test('refusals of the new key do not bring a leaked key back', async () => {
    const rotation = await monitored({ newKeyRefusals: 2 })
    const { leakId } = await report(api, { token: rotation.token })
    await eventually(async () => (await house.rotation(rotation.rotationId)).timeline.length > 5, 'the second notice')
    await rotation.handle.signal('evidence', 'new-key-refused', rotation.rotationId)
    await house.db.query('update key_usage set refused_upstream = 100 where key_id = $1', [rotation.newKeyId])
    await rotation.handle.signal('evidence', 'new-key-refused', rotation.rotationId)
    await house.pass(HOUR)
    await closed(house, leakId)
    expect(await statesOf(rotation.credentialId)).toEqual(['1 compromised retired', '2 active current'])
    expect((await house.rotation(rotation.rotationId)).timeline.map(({ stage }) => stage)).not.toContain('rolling-back')
  })

  test('G1: a leak of the new key opens the window anew: the old key stays until the evidence comes', async () => {
    const rotation = await monitored()
    await house.pass(13 * DAY)
    const { leakId } = await report(api, { token: rotation.newToken })
    const reopened = await eventually(async () => {
      const now = await house.rotation(rotation.rotationId)
      return now.stage === 'monitoring' && now.newKeyId !== undefined && now.newKeyId !== rotation.newKeyId ? now : undefined
    }, 'another new key')
    expect(inMinutes(reopened.deadline, house.now())).toBeGreaterThan(13 * 24 * 60)
    expect(await house.keyState(rotation.newKeyId)).toBe('compromised')
    await house.pass(7 * DAY)
    expect(house.verdicts(rotation.token)).toEqual([true, true])
    await house.use(await house.claimNewKey(rotation.rotationId))
    await house.pass(DAY + HOUR)
    await house.settleUsage()
    await house.pass(2 * HOUR)
    expect(await rotation.handle.result()).toBe('completed')
    await closed(house, leakId)
    expect(await statesOf(rotation.credentialId)).toEqual(['1 deactivated retired', '2 compromised retired', '3 active current'])
  })
})
