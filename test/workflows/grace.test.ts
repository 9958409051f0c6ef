/** Emergencies for clients that must not stop: `keyturn emergency <credential> --grace 15m`. */
import { type CredentialId, graceTerms, type RotationId, type RotationPolicy, tokenSha256 } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { redeemSuccessor } from '../../registry/claims.ts'
import { eventually, type House } from '../support/house.ts'
import { obstruct } from '../support/obstacles.ts'
import { openHouse } from '../support/open-house.ts'
import { type PlaceName, standAt } from '../support/standings.ts'

vi.setConfig({ testTimeout: 300_000 })
const WITHIN_MS = 60_000
/** So much later than announced an exposed key may die on a busy machine. */
const LATE_MS = 15_000
/** With no moment of quiet to wait for: time passes by itself here. */
const grace = (ms: number): Partial<RotationPolicy> => ({ ...graceTerms(ms), quietPeriodMs: 0, regretWindowMs: 0 })
const LONG = grace(3_600_000)

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
})
afterAll(() => house.close())

const stages = async (rotationId: RotationId) => (await house.rotation(rotationId)).timeline.map(({ stage }) => stage)
const completed = (rotationId: RotationId) =>
  eventually(async () => (await house.rotation(rotationId)).stage === 'completed', `the end of ${rotationId}`, WITHIN_MS)
const statesOf = async (credentialId: CredentialId) =>
  (await house.keys(credentialId)).map(({ version, state, standing }) => `${version} ${state} ${standing}`)
const GRACED = ['requested', 'introducing', 'notifying', 'monitoring', 'deactivating', 'completed']

test('G1: both keys are accepted until the client has switched over; then the old one is compromised, before the grace is over', async () => {
  const { credentialId, token } = await house.credential()
  const { rotationId } = await house.trigger(credentialId, LONG, 'emergency')
  await house.reached(rotationId, 'monitoring', WITHIN_MS)
  const newToken = await house.claimNewKey(rotationId)
  expect([house.verdicts(token), house.verdicts(newToken)]).toEqual([
    [true, true],
    [true, true],
  ])
  // An exposed key does not open the way to the next one.
  const shown = { shown: { tokenSha256: tokenSha256(token) }, at: new Date(), from: 'test', sealer: house.sealer }
  expect(await redeemSuccessor(house.db, shown)).toMatchObject({ outcome: expect.stringMatching(/^(refused|no-successor)$/) })
  await house.use(newToken)
  await completed(rotationId)
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
  expect([house.verdicts(token), house.verdicts(newToken)]).toEqual([
    [false, false],
    [true, true],
  ])
  expect(await stages(rotationId)).toEqual(GRACED)
})

test('G9: at the end of the grace the old key dies, though the client has not even claimed the new one', async () => {
  const { credentialId, token } = await house.credential()
  const { rotationId } = await house.trigger(credentialId, grace(1_000), 'emergency')
  await house.use(token)
  await completed(rotationId)
  const { deadline = new Date(0), receipts } = await house.rotation(rotationId)
  const { publishedAt = '' } = receipts.find(({ event }) => event === 'keyturn.key.compromised') ?? {}
  const lateMs = Date.parse(publishedAt) - deadline.getTime()
  expect([lateMs >= 0, lateMs < LATE_MS]).toEqual([true, true])
  expect(house.verdicts(token)).toEqual([false, false])
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
  expect(house.verdicts(await house.claimNewKey(rotationId))).toEqual([true, true])
})

test.each(['an emergency without grace', 'an order to escalate'])('%s ends the grace at once', async (what) => {
  const { credentialId, token } = await house.credential()
  const rotation = await house.rotate(credentialId, LONG, 'emergency')
  await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
  if (what === 'an order to escalate') await house.order(rotation, 'escalate')
  else expect(await house.trigger(credentialId, {}, 'emergency')).toMatchObject({ rotationId: rotation.rotationId, joined: true })
  await completed(rotation.rotationId)
  expect(house.verdicts(token)).toEqual([false, false])
  expect(await statesOf(credentialId)).toEqual(['1 compromised retired', '2 active current'])
})

test.each(['manual', 'emergency'] as const)('G9: it does not begin anew when the new key leaks: %s', async (trigger) => {
  const { credentialId } = await house.credential()
  const rotation = await house.rotate(credentialId, trigger === 'emergency' ? LONG : {}, trigger)
  if (trigger === 'manual') {
    await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
    await house.trigger(credentialId, LONG, 'emergency')
  }
  const graced = (version: number) =>
    eventually(
      async () => {
        const { stage, deadline, newKeyId } = await house.rotation(rotation.rotationId)
        const [oldKey, ...others] = await house.keys(credentialId)
        const isNew = others.some((key) => key.keyId === newKeyId && key.version === version)
        const soon = deadline !== undefined && deadline.getTime() < Date.now() + 2 * 3_600_000
        return stage === 'monitoring' && isNew && soon && { deadline, newKeyId, sunsetAt: oldKey?.sunsetAt }
      },
      `the grace with version ${version}`,
      WITHIN_MS,
    )
  const { deadline, newKeyId } = await graced(2)
  const leak = { leakId: 'leak_0000000000000000', keyId: newKeyId, atOnce: true, overlapMs: 0, reason: 'test', actor: 'test' }
  await rotation.handle.signal('leak', leak)
  expect(await graced(3)).toMatchObject({ deadline, sunsetAt: deadline })
  await house.order(rotation, 'escalate')
  await completed(rotation.rotationId)
})

test('G6: one with grace joins the emergency that runs, and delays nothing', async () => {
  const rotation = await standAt(house, 'an emergency')
  expect(await house.trigger(rotation.credentialId, LONG, 'emergency')).toMatchObject({ joined: true })
  await rotation.release()
  await completed(rotation.rotationId)
  expect(await stages(rotation.rotationId)).not.toContain('monitoring')
})

test('G9: at the end of the grace the old key dies, whatever is still waited for', async () => {
  const { credentialId, keyId } = await house.credential()
  // The new key can not be noted as published: that is tried again and again.
  const release = await obstruct(house.db, credentialId, { refuses: 'published', event: 'keyturn.key.introduced' })
  const { rotationId } = await house.trigger(credentialId, grace(1_500), 'emergency')
  await eventually(async () => (await house.keyState(keyId)) === 'compromised', 'the end of the old key', WITHIN_MS)
  await release()
  await completed(rotationId)
})

describe('G6: takes over a rotation that runs, in the stage', () => {
  const places: readonly PlaceName[] = ['introducing', 'notifying', 'monitoring', 'deactivating', 'rolling back']
  test.each(places)('%s', async (place) => {
    const rotation = await standAt(house, place)
    const answer = await house.trigger(rotation.credentialId, grace(2_000), 'emergency')
    expect(answer).toEqual({ rotationId: rotation.rotationId, trigger: 'emergency', joined: true })
    await rotation.release()
    await completed(rotation.rotationId)
    expect(await house.keyState(rotation.keyId)).toBe('compromised')
    expect(house.verdicts(rotation.token)).toEqual([false, false])
    const live = (await house.keys(rotation.credentialId)).filter(({ state }) => state === 'active')
    expect(live.map(({ standing }) => standing)).toEqual(['current'])
    expect((await house.rotation(rotation.rotationId)).trigger).toBe('emergency')
  })
})
