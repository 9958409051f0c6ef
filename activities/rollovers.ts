/** What a fleet rollover does to the world. Its keys are dead already: the transaction that puts it on record kills them. */
import { setTimeout as pause } from 'node:timers/promises'
import {
  DEFAULT_POLICY,
  type GatewayReceipt,
  type RolloverId,
  type RolloverStage,
  type RotationRequest,
  type TriggerAnswer,
} from '@keyturn/contract'
import { cancellationSignal } from '@temporalio/activity'
import type { Database } from '../registry/database.ts'
import { RegistryError } from '../registry/errors.ts'
import { rolloverOverFallback } from '../registry/fallback.ts'
import {
  enterRolloverStage as enterStage,
  keysOfRollover,
  needRollover,
  nextMembers,
  noteMember,
  type RolloverMember,
  recordConfirmation,
  recordMarks,
  rotationOfCurrentKey,
  rotationsUnderWay,
} from '../registry/rollover-records.ts'
import { dated } from './keys.ts'
import type { BulkPublication, Confirmation, Propagation, WaitOptions } from './propagation.ts'
import { beating, FALLBACK_LOOK_MS, joined, sliceMs } from './receipts.ts'

/** How many rotations are asked for at once, and how many may be on their way to their clients. */
const ASKED_AT_ONCE = 10
const MOST_UNTOLD = 100
const LOOK_AGAIN_MS = 1_000

/** Starts the rotation of a credential, or joins or takes over the one that runs. Rejects with a RegistryError when it is refused. */
export type StartRotation = (
  target: Pick<RolloverMember, 'credentialId' | 'clientId' | 'environment'>,
  request: RotationRequest,
) => Promise<TriggerAnswer>

export interface RolloverActivityDeps {
  readonly db: Database
  readonly propagation: Propagation
  readonly startRotation: StartRotation
}

/** Publishes the end of a rollover's keys, whatever of it has not been published, once; and notes where it lies in the log. */
export async function publishRollover(
  { db, propagation }: Pick<RolloverActivityDeps, 'db' | 'propagation'>,
  rolloverId: RolloverId,
): Promise<BulkPublication> {
  const { marks, openedAt } = await needRollover(db, rolloverId)
  if (marks !== undefined) return { marks, publishedAt: openedAt }
  const publication = await propagation.publishMany(await keysOfRollover(db, rolloverId))
  await recordMarks(db, { rolloverId, marks: publication.marks })
  return { marks: publication.marks, publishedAt: openedAt }
}

/** Waits for the receipt of all its keys, and records it, complete or not. */
export async function confirmRollover(
  deps: Pick<RolloverActivityDeps, 'db' | 'propagation'>,
  rolloverId: RolloverId,
  publication: BulkPublication,
  options: WaitOptions,
): Promise<Confirmation> {
  const confirmation = await waitForAll(deps, rolloverId, publication, options)
  await recordConfirmation(deps.db, { rolloverId, ...confirmation, published: true, at: new Date() })
  return confirmation
}

/** Waits for watermarks; what a gateway says over the fallback is as good. */
async function waitForAll(
  { db, propagation }: Pick<RolloverActivityDeps, 'db' | 'propagation'>,
  rolloverId: RolloverId,
  publication: BulkPublication,
  { timeoutMs, ...options }: WaitOptions,
): Promise<Confirmation> {
  const until = performance.now() + timeoutMs
  for (;;) {
    const left = Math.max(0, Math.ceil(until - performance.now()))
    const told = await propagation.waitForAll(publication, { ...options, timeoutMs: Math.min(left, FALLBACK_LOOK_MS) })
    if (told.unconfirmed.length === 0) return told
    const whole = joined(told, await rolloverOverFallback(db, { rolloverId, since: publication.publishedAt }))
    if (whole.unconfirmed.length === 0 || performance.now() >= until) return whole
  }
}

/**
 * What is known of it while Kafka is away: the gateways that have said over the fallback that they refuse the keys, of those that were known
 * last. Gateways that start when Kafka is back must find the events there: before that it is not complete.
 */
async function noteWithoutKafka(
  { db, propagation }: Pick<RolloverActivityDeps, 'db' | 'propagation'>,
  rolloverId: RolloverId,
): Promise<void> {
  const { openedAt } = await needRollover(db, rolloverId)
  const unconfirmed = [...propagation.watch.known().keys()].sort()
  const known = joined({ gateways: [], unconfirmed }, await rolloverOverFallback(db, { rolloverId, since: openedAt }))
  await recordConfirmation(db, { rolloverId, ...known, published: false, at: new Date() })
}

export function createRolloverActivities(deps: RolloverActivityDeps) {
  const { db, propagation, startRotation } = deps

  /** Where it stands: a run of the workflow that takes over goes on from there. */
  const readRollover = async ({
    rolloverId,
  }: {
    rolloverId: RolloverId
  }): Promise<{ stage: RolloverStage; ended: boolean; confirmed: boolean }> => {
    const { stage, endedAt, confirmed } = await needRollover(db, rolloverId)
    return { stage, ended: endedAt !== undefined, confirmed }
  }

  const enterRolloverStage = async (input: {
    rolloverId: RolloverId
    stage: RolloverStage
    ended?: boolean
    reason?: string
    at: number
    actor: string
  }): Promise<void> => enterStage(db, dated(input))

  /** Publishes, and waits for the receipt for `waitMs` at most. */
  const propagateRollover = (input: { rolloverId: RolloverId; waitMs: number }): Promise<void> =>
    beating(async () => {
      try {
        const publication = await publishRollover(deps, input.rolloverId)
        await confirmRollover(deps, input.rolloverId, publication, { timeoutMs: input.waitMs, signal: cancellationSignal() })
      } catch (error) {
        if (!(error instanceof RegistryError)) await noteWithoutKafka(deps, input.rolloverId)
        throw error
      }
    })

  /** Waits as long as it takes. A keys topic that was lost and made anew is written again: its offsets mean nothing any more. */
  const awaitRolloverReceipt = ({ rolloverId }: { rolloverId: RolloverId }): Promise<void> =>
    beating(async () => {
      const lines = new Map<string, GatewayReceipt>()
      for (let slices = 0; ; slices++) {
        let publication = await publishRollover(deps, rolloverId)
        if (!(await propagation.holds(publication))) {
          for (const keyId of await keysOfRollover(db, rolloverId)) await propagation.publish(keyId)
          const { marks } = await propagation.publishMany([])
          publication = { ...publication, marks }
          await recordMarks(db, { rolloverId, marks, lost: true })
        }
        const options = { timeoutMs: sliceMs(slices), signal: cancellationSignal() }
        const slice = await waitForAll(deps, rolloverId, publication, options)
        for (const line of slice.gateways) if (!lines.has(line.gatewayId)) lines.set(line.gatewayId, line)
        const gateways = slice.gateways.map((line) => lines.get(line.gatewayId) ?? line)
        await recordConfirmation(db, { rolloverId, gateways, unconfirmed: slice.unconfirmed, published: true, at: new Date() })
        if (slice.unconfirmed.length === 0) return
      }
    })

  /**
   * Starts the rotations of the next credentials; when many clients have not been told yet, first waits until they have.
   * @returns whether there are more
   */
  const issueWave = ({ rolloverId, size }: { rolloverId: RolloverId; size: number }): Promise<{ more: boolean }> =>
    beating(async () => {
      const { reason, actor } = await needRollover(db, rolloverId)
      while ((await rotationsUnderWay(db, rolloverId)).untold > MOST_UNTOLD - size)
        await pause(LOOK_AGAIN_MS, undefined, { signal: cancellationSignal() })
      const members = await nextMembers(db, rolloverId, size)
      let next = 0
      const lane = async (): Promise<void> => {
        for (let member = members[next++]; member !== undefined; member = members[next++]) {
          const outcome = await startOne(member, reason, actor)
          await noteMember(db, { rolloverId, credentialId: member.credentialId, ...outcome, at: new Date() })
        }
      }
      await Promise.all(Array.from({ length: ASKED_AT_ONCE }, lane))
      return { more: (await rotationsUnderWay(db, rolloverId)).waiting > 0 }
    })

  async function startOne(
    { rotationId, ...target }: RolloverMember,
    reason: string,
    actor: string,
  ): Promise<{ rotationId?: RotationRequest['rotationId']; failure?: string }> {
    try {
      const request: RotationRequest = { rotationId, trigger: 'emergency', reason, actor, policy: DEFAULT_POLICY }
      return { rotationId: (await startRotation(target, request)).rotationId }
    } catch (error) {
      if (!(error instanceof RegistryError)) throw error
      // A rotation that ran when the keys died, or another rollover's, has issued the new key.
      const issuedBy = await rotationOfCurrentKey(db, target.credentialId)
      return issuedBy === undefined ? { failure: error.message } : { rotationId: issuedBy }
    }
  }

  /** Waits until every rotation of it has ended. */
  const awaitRotations = ({ rolloverId }: { rolloverId: RolloverId }): Promise<void> =>
    beating(async () => {
      while ((await rotationsUnderWay(db, rolloverId)).open > 0)
        await pause(LOOK_AGAIN_MS, undefined, { signal: cancellationSignal() })
    })

  return {
    readRollover,
    enterRolloverStage,
    propagateRollover,
    awaitRolloverReceipt,
    issueWave,
    awaitRotations,
  }
}
