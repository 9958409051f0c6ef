/** What a leak needs: the containment and its receipt, the order to the rotation, and the end with its evidence. */
import { setTimeout as pause } from 'node:timers/promises'
import {
  DEFAULT_POLICY,
  type LeakId,
  type LeakOrder,
  type RotationId,
  type RotationPolicy,
  type RotationRequest,
  randomBase62,
} from '@keyturn/contract'
import { cancellationSignal } from '@temporalio/activity'
import type { Database } from '../registry/database.ts'
import * as registry from '../registry/leak-response.ts'
import { usageSinceLeak } from '../registry/leak-usage.ts'
import type { LeakSettings } from '../registry/playbooks.ts'
import type { Propagation, Publication } from './propagation.ts'
import { beating, completeReceipt, type PublicationRecord, toPublicationRecord } from './receipts.ts'

const LOOK_AGAIN_MS = 500

export interface LeakActivityDeps {
  readonly db: Database
  readonly propagation: Propagation
  readonly leakSettings: LeakSettings
}

/** What is left to do, and with what: the request for a rotation, whose `leak` is the order to one that runs. */
export interface LeakSteps extends Omit<registry.LeakPlan, 'changed' | 'actor'> {
  readonly request: RotationRequest & { readonly leak: LeakOrder }
  /** Where the event lies that makes gateways refuse the key. */
  readonly publication?: PublicationRecord
}

export function createLeakActivities({ db, propagation, leakSettings }: LeakActivityDeps) {
  /** Contains a leak as far as it must not wait, and says what is left. `force` when its time is over. */
  const containLeak = async (input: { leakId: LeakId; at: number; force: boolean }): Promise<LeakSteps> => {
    const { changed, actor, ...plan } = await containAndPublish({ db, propagation, leakSettings }, { ...input, begun: true })
    const { keyId, atOnce, overlapMs, reason } = plan
    const [publication] = changed
    return {
      ...plan,
      request: {
        rotationId: `rot_${randomBase62(16)}` as RotationId,
        trigger: 'leak',
        reason,
        actor,
        policy: leakPolicy(plan),
        leak: { leakId: input.leakId, keyId, atOnce, overlapMs, reason, actor },
      },
      ...(publication === undefined ? {} : { publication: toPublicationRecord(publication) }),
    }
  }

  /** Waits as long as it takes until every live gateway refuses the key. */
  const awaitLeakReceipt = ({ leakId, publication }: { leakId: LeakId; publication: PublicationRecord }): Promise<void> =>
    beating(async () => {
      await completeReceipt({ db, propagation }, publication, (receipt) => registry.noteLeakReceipt(db, leakId, receipt))
    })

  /** Closes a leak when it is known who used the key up to the last gateway's refusal, or when patience is at its end. */
  const closeLeak = (input: {
    leakId: LeakId
    at: number
    patienceMs: number
  }): Promise<{ requests: number; newSources: number }> =>
    beating(async () => {
      const { leakId } = input
      const at = new Date(input.at)
      const until = Date.now() + input.patienceMs
      while (!(await registry.closeLeak(db, { leakId, at, patient: Date.now() < until })))
        await pause(LOOK_AGAIN_MS, undefined, { signal: cancellationSignal() })
      const use = await usageSinceLeak(db, leakId)
      return { requests: use?.requests ?? 0, newSources: use?.newSources.length ?? 0 }
    })

  return { containLeak, awaitLeakReceipt, closeLeak }
}

/**
 * Contains a leak outside of its workflow, too: while Temporal is away, nobody else would.
 * @returns the plan, with the publications of what has changed in the place of its keys
 */
export async function containAndPublish(
  { db, propagation, leakSettings }: LeakActivityDeps,
  { leakId, at, force = false, begun }: { leakId: LeakId; at: number; force?: boolean; begun: boolean },
): Promise<Omit<registry.LeakPlan, 'changed'> & { changed: readonly Publication[] }> {
  const plan = await registry.containLeak(db, { leakId, at: new Date(at), settings: leakSettings, force, begun })
  return { ...plan, changed: await Promise.all(plan.changed.map((keyId) => propagation.publish(keyId))) }
}

/** The quiet period is the part of a short overlap after which silence means that the client has switched over. */
const QUIET_PART = 4

function leakPolicy({ atOnce, overlapMs }: { atOnce: boolean; overlapMs: number }): RotationPolicy {
  const policy = { ...DEFAULT_POLICY, onDeadline: 'force', regretWindowMs: 0, successorByOldKey: false } as const
  if (atOnce) return policy
  return { ...policy, overlapMs, quietPeriodMs: Math.min(DEFAULT_POLICY.quietPeriodMs, Math.floor(overlapMs / QUIET_PART)) }
}
