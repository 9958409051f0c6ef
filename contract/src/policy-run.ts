/** A run of a policy: the workflow `runPolicy`, and the Temporal Schedule that starts it. No Node modules here: workflows import this file. */
import type { ClientId, CredentialId, RotationId } from './ids.ts'
import type { RotationPolicy } from './rotation.ts'

/** How often a policy is run, and how far ahead a run starts what is due. In milliseconds. */
export const POLICY_RUN_MS = 15 * 60_000

/** The signal that tells a run to look at its policy again. */
export const POLICY_CHANGED = 'policyChanged'

/** The Schedules of a deployment; those of another one have another task queue. */
export const policySchedulePrefix = (taskQueue: string): string => `${taskQueue}/policy/`
export const policyScheduleId = (taskQueue: string, policy: string): string => policySchedulePrefix(taskQueue) + policy

export interface RunPolicyInput {
  readonly policy: string
  /** When it ends; `POLICY_RUN_MS` from now unless given. Milliseconds of the epoch, like all times here. */
  readonly until?: number
  /** What the runs before this one, continued by it, have done. */
  readonly before?: PolicyRunReport
  /** Where their last page ended. */
  readonly after?: PlanCursor
}

/** The last one of a page: the next page of the same wave begins behind it, also when its rotation is not on record yet. */
export interface PlanCursor {
  readonly wave: number
  readonly createdAt: number
  readonly credentialId: CredentialId
}

export interface PolicyRunReport {
  readonly started: number
  /** Credentials whose rotation was running already. */
  readonly joined: number
  readonly lastStartAt?: number
  /** Why nothing more was started. */
  readonly ended: PolicyRunEnd
}

/**
 * `done`: what was due has been started. `waiting`: a wave has not ended yet. `full`: as many are open as the policy allows.
 * `closed`: a blackout. `stopped`: too much of a wave went wrong. `gone`: there is no such policy any more.
 */
export type PolicyRunEnd = 'done' | 'waiting' | 'full' | 'closed' | 'stopped' | 'gone'

export interface PlannedStart {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: string
  readonly rotationId: RotationId
  readonly at: number
  readonly wave: number
}

/** A page of what a run is to start. */
export interface PolicyPlan {
  readonly starts: readonly PlannedStart[]
  /** Where to go on, when there may be more to start in this run. */
  readonly next?: PlanCursor
  readonly outcome: PolicyRunEnd
  /** Given when there is something to start. */
  readonly rotation?: RotationPolicy
  readonly cycle: number
  readonly reason: string
}
