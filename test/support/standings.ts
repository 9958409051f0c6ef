/** Rotations that stand still at a known place, for tests of what can be done there. */
import { type RotationPolicy, type RotationStage, randomBase62, type Trigger } from '@keyturn/contract'
import { eventually, type House, type StartedRotation, type TestCredential } from './house.ts'
import { type Obstacle, obstruct } from './obstacles.ts'

export interface Standing extends TestCredential, StartedRotation {
  /** Removes what keeps the rotation there. */
  release(): Promise<void>
}

const SECOND = 1_000
const WITHIN_MS = 60_000
const STAND: Partial<RotationPolicy> = {
  overlapMs: 600 * SECOND,
  quietPeriodMs: 0,
  regretWindowMs: 600 * SECOND,
  receiptWaitMs: 600 * SECOND,
}

type Release = () => Promise<unknown>

interface Place {
  readonly stage: RotationStage
  readonly trigger?: Trigger
  readonly policy?: Partial<RotationPolicy>
  /** What is put in the way before the rotation begins. */
  readonly before?: (house: House, credential: TestCredential) => Promise<Release>
  /** What brings it there once both keys are accepted. */
  readonly onward?: (house: House, rotation: StartedRotation & TestCredential) => Promise<Release>
}

const obstacle =
  (stopped: Obstacle): NonNullable<Place['before']> =>
  (house, { credentialId }) =>
    obstruct(house.db, credentialId, stopped)

/** Stops every rotation of the house that waits for a receipt. */
async function silentGateway(house: House): Promise<Release> {
  const gatewayId = `gw-silent-${randomBase62(6)}`
  await house.announceSilentGateway(gatewayId)
  return () => house.propagation.declareGone(gatewayId)
}

const nothing: Release = async () => {}
const HELD_SOON = { receiptWaitMs: SECOND }

/** Every place where a rotation may stand for longer than a moment, once it is on record. */
export const PLACES = {
  introducing: { stage: 'introducing', before: obstacle({ refuses: 'published', event: 'keyturn.key.introduced' }) },
  notifying: { stage: 'notifying', before: obstacle({ refuses: 'published', event: 'keyturn.key.deprecated' }) },
  monitoring: { stage: 'monitoring' },
  deactivating: {
    stage: 'deactivating',
    onward: async (house, rotation) => house.order(rotation, 'deactivateNow').then(() => nothing),
  },
  'rolling back': {
    stage: 'rolling-back',
    onward: async (house, rotation) => {
      const release = await obstruct(house.db, rotation.credentialId, {
        refuses: 'published',
        event: 'keyturn.key.reinstated',
      })
      await house.order(rotation, 'rollBack')
      return release
    },
  },
  'held by a person': { stage: 'held', onward: async (house, rotation) => house.order(rotation, 'hold').then(() => nothing) },
  'held at the deadline': { stage: 'held', policy: { overlapMs: 1, onDeadline: 'hold' } },
  'held for a failure': { stage: 'held', before: obstacle({ refuses: 'change', event: 'keyturn.key.deprecated' }) },
  'held for a receipt': { stage: 'held', policy: HELD_SOON, before: silentGateway },
  'held for the last receipt': {
    stage: 'held',
    policy: HELD_SOON,
    onward: async (house, rotation) => {
      const release = await silentGateway(house)
      await house.order(rotation, 'deactivateNow')
      return release
    },
  },
  'an emergency': { stage: 'notifying', trigger: 'emergency', before: silentGateway },
} as const satisfies Record<string, Place>
export type PlaceName = keyof typeof PLACES

/** Begins a rotation and brings it to a place. `prepare` changes its credential before. */
export async function standAt(
  house: House,
  name: PlaceName,
  policy: Partial<RotationPolicy> = {},
  prepare: (credential: TestCredential) => Promise<unknown> = nothing,
): Promise<Standing> {
  const place: Place = PLACES[name]
  const credential = await house.credential()
  await prepare(credential)
  const releases = [await (place.before ?? (async () => nothing))(house, credential)]
  const started = await house.rotate(credential.credentialId, { ...STAND, ...place.policy, ...policy }, place.trigger)
  const rotation = { ...credential, ...started }
  if (place.onward !== undefined) {
    await house.reached(rotation.rotationId, 'monitoring', WITHIN_MS)
    releases.push(await place.onward(house, rotation))
  }
  await eventually(
    async () => (await rotation.handle.query<{ stage: RotationStage }>('progress')).stage === place.stage,
    `${place.stage} (${name})`,
    WITHIN_MS,
  )
  return {
    ...rotation,
    async release() {
      for (const release of releases) await release()
    },
  }
}
