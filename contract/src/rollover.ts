/** A fleet rollover as the API, the workflow and the command line speak of it. No Node modules here: workflows import this file. */
import type { CredentialId, RolloverId, RotationId } from './ids.ts'
import type { GatewayReceipt } from './rotation.ts'

/**
 * - `killing`: the keys are dead in the registry, and the gateways are being told
 * - `issuing`: new keys are issued and delivered, wave by wave; `paused`: no wave begins
 * - `confirming`: all are issued; gateways that were silent, or clients' rotations, are still waited for
 * - `completed`: every live gateway refuses the dead keys, and every credential has its new one
 * - `cancelled`: no more new keys are issued. What is dead stays dead
 */
export const ROLLOVER_STAGES = ['killing', 'issuing', 'paused', 'confirming', 'completed', 'cancelled'] as const
export type RolloverStage = (typeof ROLLOVER_STAGES)[number]

export const ROLLOVER_UPDATES = ['pause', 'resume', 'cancel'] as const
export type RolloverUpdate = (typeof ROLLOVER_UPDATES)[number]

/** The argument of every update by a person. */
export interface RolloverOrder {
  readonly reason: string
  readonly actor: string
}

/** How far it has come. */
export interface RolloverCounts {
  /** Credentials. */
  readonly selected: number
  /** Of these, those for which another rollover was under way: it has killed their keys, and they get one new key from both. */
  readonly joined: number
  /** Keys that this rollover has killed. */
  readonly killed: number
  /** Of these, those that every live gateway refuses, by the receipt. */
  readonly confirmed: number
  /** Credentials that have a new key. */
  readonly successors: number
  /** Credentials whose new key is at every live gateway, and whose client has been told. */
  readonly delivered: number
  /** Credentials whose rotation could not be started, is held for a failure, or was rolled back. */
  readonly failed: number
}

/** One receipt for all keys of a rollover: when each gateway had applied all their ends. */
export interface RolloverReceipt {
  readonly event: 'keyturn.key.compromised'
  readonly keys: number
  /** When they died in the registry; `ms` of a gateway counts from here. */
  readonly killedAt: string
  readonly gateways: readonly GatewayReceipt[]
  readonly unconfirmed: readonly string[]
}

/** A credential that is left without a new key, and why. */
export interface RolloverRemainder {
  readonly credentialId: CredentialId
  readonly rotationId?: RotationId
  readonly why: string
}

/** What the query `progress` answers; the rest is in the registry. */
export interface RolloverProgress {
  readonly rolloverId: RolloverId
  readonly stage: RolloverStage
}
