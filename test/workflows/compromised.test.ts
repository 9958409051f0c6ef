import type { RotationUpdate, TriggerAnswer } from '@keyturn/contract'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { unavailableServer } from '../../api/dependencies.ts'
import { ApiError } from '../../api/problems.ts'
import { listAudit } from '../../registry/audit.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { runsOf } from '../support/runs.ts'
import { type PlaceName, type Standing, standAt } from '../support/standings.ts'

const WITHIN_MS = 120_000
const RUNS = runsOf({ few: 8, many: 100 })

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 2 })
})
afterAll(() => house.close())

type What = RotationUpdate | 'manual' | 'emergency'

/** Something that somebody does, so long after the one before. */
interface Act {
  readonly what: What
  readonly afterMs: number
}

const PLACES: readonly PlaceName[] = [
  'introducing',
  'notifying',
  'monitoring',
  'deactivating',
  'rolling back',
  'held by a person',
  'held at the deadline',
]
const act = (...whats: What[]): fc.Arbitrary<Act> =>
  fc.record({ what: fc.constantFrom(...whats), afterMs: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 120 })) })
/** Orders of all kinds, one of which at least is an emergency or meant to go back. */
const race = fc
  .tuple(
    act('escalate', 'emergency'),
    fc.array(act('rollBack', 'rollBack', 'escalate', 'hold', 'resume', 'deactivateNow', 'extend', 'approve', 'manual'), {
      minLength: 1,
      maxLength: 4,
    }),
  )
  .chain(([emergency, others]) => fc.shuffledSubarray([emergency, ...others], { minLength: others.length + 1 }))

test(`G9: whatever is ordered at the same time as an emergency, the old key is compromised and stays so (${RUNS.text})`, {
  timeout: RUNS.count * 60_000,
}, async () => {
  await fc.assert(fc.asyncProperty(fc.constantFrom(...PLACES), race, raceThrough), {
    numRuns: RUNS.count,
    seed: RUNS.seed,
    endOnFailure: true,
  })
})

async function raceThrough(place: PlaceName, acts: readonly Act[]): Promise<void> {
  const rotation = await standAt(house, place, { regretWindowMs: 200 })
  let accepted = 0
  const under: Promise<void>[] = []
  for (const { what, afterMs } of acts) {
    await new Promise((resolve) => setTimeout(resolve, afterMs))
    under.push(
      give(rotation, what).then((rotationId) => {
        // One that comes too late begins another rotation, of another old key.
        if ((what === 'escalate' || what === 'emergency') && rotationId === rotation.rotationId) accepted += 1
      }),
    )
  }
  await Promise.all(under)
  await rotation.release()
  if (accepted === 0) {
    // Every emergency came after the end, and was told so.
    await eventually(async () => (await house.rotation(rotation.rotationId)).endedAt !== undefined, 'the end', WITHIN_MS)
    return
  }
  await eventually(async () => (await house.rotation(rotation.rotationId)).endedAt !== undefined, 'the end', WITHIN_MS)
  expect(await house.rotation(rotation.rotationId)).toMatchObject({ stage: 'completed', trigger: 'emergency' })
  for (const again of ['rollBack', 'resume', 'approve', 'extend'] as const) await give(rotation, again)
  expect(await house.keyState(rotation.keyId)).toBe('compromised')
  expect(house.verdicts(rotation.token)).toEqual([false, false])
  const changes = (await listAudit(house.db, { subject: rotation.keyId, limit: 100 })).map(({ action }) => action)
  expect(changes.at(-1)).toBe('key.compromised')
  const keys = await house.keys(rotation.credentialId)
  expect(keys.filter(({ standing, state }) => standing === 'current' && state === 'active')).toHaveLength(1)
}

/** @returns the rotation that has taken it; nothing when it was refused */
async function give(rotation: Standing, what: What): Promise<string | undefined> {
  try {
    if (what === 'manual' || what === 'emergency') {
      const answer: TriggerAnswer = await house.trigger(rotation.credentialId, { overlapMs: 600_000 }, what)
      return answer.rotationId
    }
    return (await house.order(rotation, what)).rotationId
  } catch (error) {
    if (error instanceof ApiError) return undefined
    // A busy machine: it may have been taken or not, which is no answer to judge by.
    if (unavailableServer(error) !== undefined) return undefined
    throw error
  }
}
