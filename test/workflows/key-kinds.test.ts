/** Rotations of keys that sign requests. What gateways make of a signature is another matter: use is reported by hand here. */
import type { KeyId } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { redeemClaim } from '../../registry/claims.ts'
import { eventually, type House, type StartedRotation } from '../support/house.ts'
import { linesOf, registryLines } from '../support/key-lines.ts'
import { openHouse } from '../support/open-house.ts'
import { newPublicKey } from '../support/shown.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const POLICY = { overlapMs: 14 * DAY, quietPeriodMs: DAY, regretWindowMs: HOUR } as const

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'skipped', gateways: 1 })
})
afterAll(() => house.close())

const credential = (kind: 'hmac-sha256' | 'ed25519') =>
  house.credential(['read:prices'], 'prod', [], { kind, ...(kind === 'ed25519' ? { publicKey: newPublicKey() } : {}) })

async function monitored(kind: 'hmac-sha256' | 'ed25519', policy: Parameters<House['rotate']>[1] = {}) {
  const { credentialId, keyId } = await credential(kind)
  const rotation = await house.rotate(credentialId, { ...POLICY, ...policy })
  const { newKeyId } = await house.reached(rotation.rotationId, 'monitoring')
  return { ...rotation, keyId, newKeyId: newKeyId as KeyId }
}

/** The new key's state and kind, as the gateways have it too. */
async function newKeyOf({ credentialId }: StartedRotation): Promise<[string, string]> {
  const key = (await house.keys(credentialId)).at(-1)
  return [key?.state ?? 'none', key?.verifier.kind ?? 'none']
}

async function enrol({ rotationId }: StartedRotation): Promise<void> {
  const by = { at: new Date(house.now()), from: 'test', sealer: house.sealer, publicKey: newPublicKey() }
  const redeemed = await redeemClaim(house.db, { code: await house.claimCodeOf(rotationId), ...by })
  if (redeemed.outcome !== 'enrolled') throw new Error(`the claim is ${redeemed.outcome}`)
  await house.propagation.publish(redeemed.keyId)
}

/** As a gateway would report it that has verified a signature. */
async function use(keyId: KeyId): Promise<void> {
  await house.db.query(
    `insert into key_usage as u (key_id, first_accepted_at, last_accepted_at, accepted) values ($1, $2, $2, 1)
     on conflict (key_id) do update set last_accepted_at = excluded.last_accepted_at, accepted = u.accepted + 1`,
    [keyId, new Date(house.now())],
  )
  await house.settleUsage()
}

async function endsWhenResumed(rotation: StartedRotation): Promise<void> {
  await house.order(rotation, 'resume')
  await house.reached(rotation.rotationId, 'deactivating')
  await house.pass(2 * HOUR)
  expect(await rotation.handle.result()).toBe('completed')
}

const cacheEqualsRegistry = () =>
  eventually(
    async () =>
      JSON.stringify(house.gateways.map(({ cache }) => linesOf(cache))) === JSON.stringify([await registryLines(house.db)]),
    'the cache equals the registry',
  )

test.each(['hmac-sha256', 'ed25519'] as const)('G2: %s: ends when the new key is used and the old one quiet', async (kind) => {
  const rotation = await monitored(kind)
  expect(await newKeyOf(rotation)).toEqual([kind === 'ed25519' ? 'pre-activation' : 'active', kind])
  await house.pass(3 * DAY)
  await house.settleUsage()
  expect((await house.rotation(rotation.rotationId)).stage).toBe('monitoring')
  if (kind === 'ed25519') await enrol(rotation)
  else expect(await house.claimNewKey(rotation.rotationId)).toMatch(/^kt_prod_/)
  await use(rotation.newKeyId)
  await house.reached(rotation.rotationId, 'deactivating')
  await house.pass(2 * HOUR)
  expect(await rotation.handle.result()).toBe('completed')
  expect([await house.keyState(rotation.keyId), await house.keyState(rotation.newKeyId)]).toEqual(['deactivated', 'active'])
  await cacheEqualsRegistry()
})

describe('G1: while the new key is not enrolled, the old one stays', () => {
  test('G1: holds at the deadline where the policy says force, and goes on when it is resumed after the enrolment', async () => {
    const rotation = await monitored('ed25519', { onDeadline: 'force' })
    await use(rotation.keyId)
    await house.pass(14 * DAY + HOUR)
    const held = await house.reached(rotation.rotationId, 'held')
    expect([held.heldFor, held.timeline.at(-1)?.reason]).toEqual([
      'deadline',
      expect.stringMatching(/the client has not enrolled its new key: extend, roll back, or resume once it has/),
    ])
    await house.order(rotation, 'resume')
    await eventually(
      async () => (await house.rotation(rotation.rotationId)).timeline.filter(({ stage }) => stage === 'held').length === 2,
      'held a second time',
    )
    expect(await house.keyState(rotation.keyId)).toBe('active')
    await enrol(rotation)
    await endsWhenResumed(rotation)
  })

  test("G1: holds for failure when a person's word comes past the API, and says what is missing", async () => {
    const rotation = await monitored('ed25519')
    await house.order(rotation, 'deactivateNow')
    const held = await house.reached(rotation.rotationId, 'held')
    expect([held.heldFor, held.timeline.at(-1)?.reason]).toEqual([
      'failure',
      expect.stringMatching(/has not enrolled a public key for .* it would have no key/),
    ])
    expect(await house.keyState(rotation.keyId)).toBe('active')
    await enrol(rotation)
    await endsWhenResumed(rotation)
  })

  test('rolls back', async () => {
    const rotation = await monitored('ed25519')
    await house.order(rotation, 'rollBack')
    expect(await rotation.handle.result()).toBe('rolled-back')
    expect([await house.keyState(rotation.keyId), await house.keyState(rotation.newKeyId)]).toEqual(['active', 'deactivated'])
    await cacheEqualsRegistry()
  })

  test('but in an emergency it dies all the same, and the new one is enrolled after the rotation has ended', async () => {
    const { credentialId, keyId } = await credential('ed25519')
    const rotation = await house.rotate(credentialId, {}, 'emergency')
    expect(await rotation.handle.result()).toBe('completed')
    expect(await house.keyState(keyId)).toBe('compromised')
    expect(await newKeyOf(rotation)).toEqual(['pre-activation', 'ed25519'])
    await enrol(rotation)
    expect(await newKeyOf(rotation)).toEqual(['active', 'ed25519'])
    await cacheEqualsRegistry()
  })
})
