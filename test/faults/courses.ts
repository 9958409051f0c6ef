/** Courses of a rotation, asked for over HTTP by clients and people who try again until they are heard; and how each has to end. */
import { setTimeout as pause } from 'node:timers/promises'
import type { RotationId, RotationStage } from '@keyturn/contract'
import { eventually, type House, type TestCredential } from '../support/house.ts'

const WITHIN_MS = 240_000

export interface Site {
  readonly house: House
  /** Where the API is, when it is. */
  readonly api: string
  /** Shows a token at every gateway, those that are dead at the moment excepted. */
  call(token: string): Promise<void>
}

export interface Ran {
  readonly course: CourseName
  readonly credential: TestCredential
  readonly rotationId: RotationId
  /** What the client has fetched, if it got that far. */
  readonly newToken?: string
}

interface Going {
  readonly site: Site
  readonly credential: TestCredential
  readonly rotationId: RotationId
}

interface Course {
  readonly trigger: 'manual' | 'emergency'
  readonly regretWindow: string
  readonly ends: Extract<RotationStage, 'completed' | 'rolled-back'>
  /** Of the key that the client had, at the end. */
  readonly oldKey: 'active' | 'deactivated' | 'compromised'
  /** What client and people do. @returns the token that the client has fetched */
  readonly play: (going: Going) => Promise<string | undefined>
}

const NONE = '0s'
const LONG = '10m'

/** Goes back or becomes an emergency at a stage: the client does what leads there, and nothing that leads on. */
const orderAt =
  (stage: RotationStage, order: 'roll-back' | 'escalate'): Course['play'] =>
  async (going) => {
    const token = stage === 'deactivating' ? await switchOver(going, 'deactivating') : undefined
    await been(going, stage)
    await post(going.site, `/v1/rotations/${going.rotationId}/${order}`, { reason: 'kill test' })
    return token
  }

const back = { trigger: 'manual', regretWindow: LONG, ends: 'rolled-back', oldKey: 'active' } as const
const taken = { trigger: 'manual', regretWindow: LONG, ends: 'completed', oldKey: 'compromised' } as const

export const COURSES = {
  'to the end': {
    trigger: 'manual',
    regretWindow: NONE,
    ends: 'completed',
    oldKey: 'deactivated',
    play: (going) => switchOver(going, 'completed'),
  },
  'held and resumed': {
    trigger: 'manual',
    regretWindow: NONE,
    ends: 'completed',
    oldKey: 'deactivated',
    play: async (going) => {
      await been(going, 'monitoring')
      await post(going.site, `/v1/rotations/${going.rotationId}/hold`, { reason: 'kill test' })
      await been(going, 'held')
      // The registry says that it is held a moment before the workflow knows: until then the order is refused.
      await eventually(
        async () => {
          await post(going.site, `/v1/rotations/${going.rotationId}/resume`, { reason: 'kill test' })
          return (await going.site.house.rotation(going.rotationId)).stage !== 'held'
        },
        `${going.rotationId} goes on`,
        WITHIN_MS,
      )
      return switchOver(going, 'completed')
    },
  },
  'back from introducing': { ...back, play: orderAt('introducing', 'roll-back') },
  'back from notifying': { ...back, play: orderAt('notifying', 'roll-back') },
  'back from monitoring': { ...back, play: orderAt('monitoring', 'roll-back') },
  'back from deactivating': { ...back, play: orderAt('deactivating', 'roll-back') },
  regretted: {
    ...back,
    play: async (going) => {
      const token = await switchOver(going, 'deactivating')
      await eventually(
        async () => {
          await going.site.call(going.credential.token)
          return been(going, 'rolling-back', 0).catch(() => false)
        },
        'the regret',
        WITHIN_MS,
      )
      return token
    },
  },
  'an emergency': {
    trigger: 'emergency',
    regretWindow: NONE,
    ends: 'completed',
    oldKey: 'compromised',
    play: async () => undefined,
  },
  'an emergency while introducing': { ...taken, play: orderAt('introducing', 'escalate') },
  'an emergency while monitoring': { ...taken, play: orderAt('monitoring', 'escalate') },
  'an emergency while deactivating': { ...taken, play: orderAt('deactivating', 'escalate') },
} as const satisfies Record<string, Course>
export type CourseName = keyof typeof COURSES

/** One rotation of a new credential, from the trigger to its end. */
export async function run(site: Site, name: CourseName): Promise<Ran> {
  const { trigger, regretWindow, play }: Course = COURSES[name]
  const credential = await site.house.credential()
  const path = `/v1/credentials/${credential.credentialId}/rotations`
  const body = { trigger, reason: 'kill test', overlap: '10m', quietPeriod: '0s', regretWindow, receiptWait: '10m' }
  const answer = await post(site, path, body)
  const rotationId = answer.rotationId as RotationId
  let newToken: string | undefined
  try {
    newToken = await play({ site, credential, rotationId })
    await eventually(
      async () => (await site.house.rotation(rotationId)).endedAt !== undefined,
      `the end of ${rotationId}, ${name}`,
      WITHIN_MS,
    )
  } catch (error) {
    throw new Error(`${name}: ${await standing(site.house, rotationId)}`, { cause: error })
  }
  return { course: name, credential, rotationId, ...(newToken === undefined ? {} : { newToken }) }
}

/** What there is to know of a rotation that does not come to its end. */
async function standing(house: House, rotationId: RotationId): Promise<string> {
  const [evidence] = await house.db.query<object>('select * from rotation_evidence where rotation_id = $1', [rotationId])
  return JSON.stringify({ ...(await house.rotation(rotationId)), evidence })
}

/** Tries until it is answered: done (2xx), or done already (409). */
async function post({ house, api }: Site, path: string, body: object): Promise<{ readonly rotationId?: string }> {
  return eventually(
    async () => {
      const answer = await fetch(api + path, {
        method: 'POST',
        headers: { authorization: `Bearer ${house.config.operatorToken}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(20_000),
      }).catch(() => undefined)
      if (answer === undefined || (!answer.ok && answer.status !== 409)) return undefined
      return (await answer.json()) as { rotationId?: string }
    },
    `POST ${path}`,
    WITHIN_MS,
  )
}

const been = ({ site: { house }, rotationId }: Going, stage: RotationStage, withinMs = WITHIN_MS): Promise<boolean> =>
  eventually(
    async () => (await house.rotation(rotationId)).timeline.some((entry) => entry.stage === stage),
    `${stage} of ${rotationId}`,
    withinMs,
  )

/** The client fetches its new key and uses it until the rotation has come to a stage. */
async function switchOver(going: Going, stage: RotationStage): Promise<string> {
  const { site, rotationId } = going
  await been(going, 'monitoring')
  const token = await site.house.claimNewKey(rotationId)
  await eventually(
    async () => {
      await site.call(token)
      await pause(100)
      return been(going, stage, 0).catch(() => false)
    },
    `${stage} of ${rotationId}`,
    WITHIN_MS,
  )
  return token
}
