/** What the API answers, as far as the command shows it. */
import type { KeyState } from '@keyturn/contract/key-state'
import type { Evidence, Receipt, RotationStage, Straggler, TimelineEntry, Trigger } from '@keyturn/contract/rotation'

export interface CredentialAnswer {
  readonly credentialId: string
  readonly clientId: string
  readonly name: string
  readonly environment: string
  readonly scopes: readonly string[]
  readonly policy?: string
  readonly rotationId?: string
  readonly keys: readonly {
    readonly keyId: string
    readonly version: number
    readonly state: KeyState
    readonly standing: string
    readonly sunsetAt?: string
    readonly lastUsedAt?: string
  }[]
  readonly stragglers: readonly Straggler[]
}

export interface RotationSummary {
  readonly rotationId: string
  readonly credentialId: string
  readonly clientId: string
  readonly trigger: Trigger
  readonly reason: string
  readonly stage: RotationStage
  readonly heldFor?: string
  readonly deadline?: string
  readonly openedAt: string
}

export interface RotationAnswer extends RotationSummary {
  readonly oldKeyId?: string
  readonly newKeyId?: string
  readonly timeline: readonly TimelineEntry[]
  readonly evidence: Evidence
  readonly receipts: readonly Receipt[]
  readonly unconfirmed: readonly string[]
}
