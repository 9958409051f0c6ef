/** What the API answers, as far as the command shows it. */
import type { KeyState } from '@keyturn/contract/key-state'
import type { Evidence, Receipt, RotationStage, Straggler, Switchover, TimelineEntry, Trigger } from '@keyturn/contract/rotation'

export interface CredentialAnswer {
  readonly credentialId: string
  readonly clientId: string
  readonly name: string
  readonly environment: string
  readonly kind: string
  readonly scopes: readonly string[]
  readonly allow?: { readonly addresses?: readonly string[]; readonly methods?: readonly string[]; readonly sequence?: string }
  readonly delivery: {
    readonly method: string
    readonly recipient?: { readonly x: string }
    readonly address?: string
    readonly mount?: string
    readonly path?: string
    readonly region?: string
    readonly secretId?: string
  }
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
  readonly switchover?: Switchover
  readonly receipts: readonly Receipt[]
  readonly unconfirmed: readonly string[]
}

export interface LeakSummary {
  readonly leakId: string
  readonly status: string
  readonly matched: string
  readonly response?: string
  readonly credentialId?: string
  readonly reportedAt: string
  readonly sightings: number
}

interface UsedFrom {
  readonly address: string
  readonly userAgent: string
  readonly count: number
  readonly lastAt: string
}

export interface IncidentAnswer {
  readonly leakId: string
  readonly status: string
  readonly matched: string
  readonly response?: string
  readonly rotationId?: string
  readonly key?: { readonly keyId: string; readonly version: number; readonly state: KeyState }
  readonly newKey?: { readonly keyId: string; readonly version: number; readonly firstUsedAt?: string }
  readonly credential?: { readonly credentialId: string; readonly name: string; readonly environment: string }
  readonly client?: { readonly clientId: string; readonly name: string }
  readonly timeline: readonly { readonly at: string; readonly what: string }[]
  readonly refusals: readonly { readonly gatewayId: string }[]
  readonly unconfirmed: readonly string[]
  readonly usage?: {
    readonly requests: number
    readonly refused: number
    readonly newSources: readonly UsedFrom[]
    readonly knownSources: readonly UsedFrom[]
  }
}
