import { ROTATION_UPDATES, type RotationProgress, type RotationUpdate, rotationWorkflowId } from '@keyturn/contract'
import { WorkflowNotFoundError } from '@temporalio/client'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { getRotation } from '../../registry/rotations.ts'
import type { rotateCredential } from '../../workflows/index.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { PLACES, type PlaceName, type Standing, standAt } from '../support/standings.ts'

const WITHIN_MS = 60_000

let house: House
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1 })
})
afterAll(() => house.close())

/** What happens to an order: it is refused with this sentence, or accepted (true). */
type Answers = Readonly<Record<RotationUpdate, true | RegExp>>

const NOTHING_WAITS = /^nothing waits for approval: the rotation is /
const NOT_HELD = /^only a held rotation can be resumed; this one is /
const DEACTIVATING = /deactivating its old key: it can be rolled back$/
const GOING_BACK = /; this one is rolling back$/
const NOT_OPEN = /^the overlap window has not begun: there is nothing to extend$/
const NOT_EVERYWHERE = /^the new key has not reached every live gateway yet/
const GOES_ON_BY_ITSELF = /^the rotation waits for a gateway, and goes on by itself \(held for: receipt; unconfirmed: gw-silent-/
const HELD_ALREADY = /^the rotation is held already \(held for: /
const FAILURE_FIRST = /^the rotation is held \(held for: failure\): that comes first$/

const TABLE: Readonly<Record<PlaceName, Answers>> = {
  introducing: {
    hold: true,
    rollBack: true,
    escalate: true,
    approve: NOTHING_WAITS,
    resume: NOT_HELD,
    extend: NOT_OPEN,
    deactivateNow: NOT_EVERYWHERE,
  },
  notifying: {
    hold: true,
    extend: true,
    deactivateNow: true,
    rollBack: true,
    escalate: true,
    approve: NOTHING_WAITS,
    resume: NOT_HELD,
  },
  monitoring: {
    hold: true,
    extend: true,
    deactivateNow: true,
    rollBack: true,
    escalate: true,
    approve: NOTHING_WAITS,
    resume: NOT_HELD,
  },
  deactivating: {
    rollBack: true,
    escalate: true,
    hold: DEACTIVATING,
    extend: DEACTIVATING,
    deactivateNow: DEACTIVATING,
    approve: NOTHING_WAITS,
    resume: NOT_HELD,
  },
  'rolling back': {
    escalate: true,
    rollBack: /^the rotation is rolling back already$/,
    hold: GOING_BACK,
    extend: GOING_BACK,
    deactivateNow: GOING_BACK,
    approve: NOTHING_WAITS,
    resume: NOT_HELD,
  },
  'held by a person': {
    resume: true,
    extend: true,
    deactivateNow: true,
    rollBack: true,
    escalate: true,
    hold: HELD_ALREADY,
    approve: NOTHING_WAITS,
  },
  'held at the deadline': {
    resume: true,
    extend: true,
    approve: true,
    deactivateNow: true,
    rollBack: true,
    escalate: true,
    hold: HELD_ALREADY,
  },
  'held for a failure': {
    resume: true,
    rollBack: true,
    escalate: true,
    hold: HELD_ALREADY,
    extend: FAILURE_FIRST,
    deactivateNow: FAILURE_FIRST,
    approve: NOTHING_WAITS,
  },
  'held for a receipt': {
    rollBack: true,
    escalate: true,
    hold: HELD_ALREADY,
    resume: GOES_ON_BY_ITSELF,
    extend: NOT_OPEN,
    deactivateNow: NOT_EVERYWHERE,
    approve: NOTHING_WAITS,
  },
  'held for the last receipt': {
    rollBack: true,
    escalate: true,
    hold: HELD_ALREADY,
    resume: GOES_ON_BY_ITSELF,
    extend: DEACTIVATING,
    deactivateNow: DEACTIVATING,
    approve: NOTHING_WAITS,
  },
  'an emergency': {
    hold: /^an emergency is not held$/,
    resume: NOT_HELD,
    extend: /^an emergency has no overlap window$/,
    approve: NOTHING_WAITS,
    deactivateNow: /^in an emergency the old key goes first/,
    rollBack: /^the old key is compromised and never comes back: the rotation rolls forward$/,
    escalate: /^the rotation is an emergency already$/,
  },
}

/** What an accepted order brings about. */
const EFFECTS: Readonly<Record<RotationUpdate, (rotation: Standing, before: RotationProgress) => Promise<boolean>>> = {
  hold: async (rotation) => (await progressOf(rotation)).stage === 'held',
  resume: async ({ rotationId }, { timeline }) => (await house.rotation(rotationId)).timeline.length > timeline.length,
  extend: async ({ rotationId, keyId }, { deadline }) => {
    const moved = (await house.rotation(rotationId)).deadline
    const key = (await house.keys((await house.rotation(rotationId)).credentialId)).find((row) => row.keyId === keyId)
    return moved !== undefined && moved.toISOString() !== deadline && key?.sunsetAt?.getTime() === moved.getTime()
  },
  approve: async ({ keyId }) => (await house.keyState(keyId)) === 'deactivated',
  deactivateNow: async ({ keyId }) => (await house.keyState(keyId)) === 'deactivated',
  rollBack: async ({ rotationId }) => (await house.rotation(rotationId)).stage === 'rolled-back',
  escalate: async ({ keyId }) => (await house.keyState(keyId)) === 'compromised',
}

const progressOf = ({ handle }: Pick<Standing, 'handle'>): Promise<RotationProgress> => handle.query<RotationProgress>('progress')

/** The updates that have left something in the history. */
async function updatesIn({ handle }: Pick<Standing, 'handle'>): Promise<number> {
  const { events } = await handle.fetchHistory()
  return (events ?? []).filter((event) => Object.keys(event).some((field) => field.startsWith('workflowExecutionUpdate'))).length
}

/** Ends it, so that it stands in nobody's way. */
async function end(rotation: Standing): Promise<void> {
  await rotation.handle.terminate('the test is over').catch((error: unknown) => {
    if (!(error instanceof WorkflowNotFoundError)) throw error
  })
  await rotation.release()
}

describe.each(Object.keys(PLACES) as PlaceName[])('%s', (place) => {
  const answers = TABLE[place]
  const refused = ROTATION_UPDATES.filter((update) => answers[update] !== true)
  const accepted = ROTATION_UPDATES.filter((update) => answers[update] === true)

  test(`refuses ${refused.join(', ')} with a reason, and without a trace; the query tells where it stands`, async () => {
    const rotation = await standAt(house, place)
    try {
      const before = await updatesIn(rotation)
      expect(await progressOf(rotation)).toMatchObject({ stage: PLACES[place].stage, rotationId: rotation.rotationId })
      for (const update of refused) {
        await expect(house.order(rotation, update), update).rejects.toMatchObject({
          code: 'wrong-stage',
          message: expect.stringMatching(answers[update] as RegExp),
        })
      }
      const another = { ...rotation, rotationId: 'rot_0000000000000000' as Standing['rotationId'] }
      for (const update of ROTATION_UPDATES) {
        await expect(house.order(another, update), update).rejects.toMatchObject({
          code: 'wrong-stage',
          message: `another rotation of this credential is running: ${rotation.rotationId}`,
        })
      }
      expect(await updatesIn(rotation)).toBe(before)
    } finally {
      await end(rotation)
    }
  })

  test.each(accepted)('accepts %s, and does it', async (update) => {
    const rotation = await standAt(house, place)
    try {
      const before = await progressOf(rotation)
      await house.order(rotation, update)
      // Only then: what is ordered has to break into what the rotation waits for.
      if (update !== 'escalate') await rotation.release()
      await eventually(() => EFFECTS[update](rotation, before), `the effect of ${update}`, WITHIN_MS)
    } finally {
      await end(rotation)
    }
  })
})

/** A rotation that waits to be put on record: somebody else has locked its credential. */
async function requested(): Promise<Standing> {
  const credential = await house.credential()
  const lock = new pg.Client({ connectionString: house.config.postgresUrl })
  await lock.connect()
  await lock.query('begin')
  await lock.query('select from credentials where credential_id = $1 for update', [credential.credentialId])
  const triggered = house.trigger(credential.credentialId, { overlapMs: 600_000, quietPeriodMs: 0, regretWindowMs: 0 })
  const handle = house.client.workflow.getHandle<typeof rotateCredential>(rotationWorkflowId(credential.credentialId))
  const { rotationId } = await eventually(() => progressOf({ handle }).catch(() => undefined), 'the rotation', WITHIN_MS)
  return {
    ...credential,
    rotationId,
    handle,
    async release() {
      await lock.end()
      await triggered
    },
  }
}

describe('requested', () => {
  test('refuses what needs a new key; answers the trigger once it is on record', async () => {
    const rotation = await requested()
    const before = await updatesIn(rotation)
    for (const [update, why] of [
      ['approve', NOTHING_WAITS],
      ['resume', NOT_HELD],
      ['extend', NOT_OPEN],
      ['deactivateNow', NOT_EVERYWHERE],
    ] as const) {
      await expect(house.order(rotation, update), update).rejects.toMatchObject({
        code: 'wrong-stage',
        message: expect.stringMatching(why),
      })
    }
    expect(await updatesIn(rotation)).toBe(before)
    expect(await getRotation(house.db, rotation.rotationId)).toBeUndefined()
    await rotation.release()
    expect(await getRotation(house.db, rotation.rotationId)).toBeDefined()
    await end({ ...rotation, release: async () => {} })
  })

  test.each(['hold', 'rollBack', 'escalate'] as const)('accepts %s, and does it', async (update) => {
    const rotation = await requested()
    const before = await progressOf(rotation)
    await house.order(rotation, update)
    await rotation.release()
    await eventually(() => EFFECTS[update](rotation, before), `the effect of ${update}`, WITHIN_MS)
    await end({ ...rotation, release: async () => {} })
  })
})

test.each(['completed', 'rolled-back'] as const)('%s: every order is refused', async (stage) => {
  const rotation = await standAt(house, 'monitoring', { regretWindowMs: 0 })
  await house.order(rotation, stage === 'completed' ? 'deactivateNow' : 'rollBack')
  expect(await rotation.handle.result()).toBe(stage)
  for (const update of ROTATION_UPDATES) {
    await expect(house.order(rotation, update), update).rejects.toMatchObject({
      code: 'wrong-stage',
      message: expect.stringMatching(/ended/),
    })
  }
  expect(await progressOf(rotation)).toMatchObject({ stage })
})

test('every place is in the table, and every order is accepted somewhere', () => {
  expect(Object.keys(TABLE).sort()).toEqual(Object.keys(PLACES).sort())
  const accepted = Object.values(TABLE).flatMap((answers) => ROTATION_UPDATES.filter((update) => answers[update] === true))
  expect(new Set(accepted)).toEqual(new Set(ROTATION_UPDATES))
})
