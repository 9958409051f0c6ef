/** What the API needs of the world. `workers/` composes it; tests bring their own. */
import type { KeyObject } from 'node:crypto'
import type { AddressBlock, Alert, KeyEventType, KeyId, LeakId, ProblemCode, Receipt } from '@keyturn/contract'
import type { Client } from '@temporalio/client'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import type { Sealer } from '../registry/sealing.ts'
import type { GithubKeys } from './github-keys.ts'

/** Where a key event lies in the log. */
export interface Publication {
  readonly keyId: KeyId
  readonly event: KeyEventType
  readonly revision: number
  readonly partition: number
  readonly offset: string
  readonly publishedAt: Date
}

/** Where many key events end in the log. */
export interface BulkPublication {
  readonly marks: Readonly<Record<string, number>>
  readonly publishedAt: Date
}

export interface GatewayStatus {
  readonly gatewayId: string
  readonly region: string
  readonly at: string
  readonly freshness: string
  readonly keys: number
  readonly live: boolean
}

export interface Propagation {
  publish(keyId: KeyId): Promise<Publication>
  waitForReceipt(publication: Publication, options: { timeoutMs: number; signal?: AbortSignal }): Promise<Receipt>
  gateways(): Promise<GatewayStatus[]>
  /** Publishes those of many keys whose last change has not been published. @returns up to where a gateway must have come */
  publishMany(keyIds: readonly KeyId[]): Promise<BulkPublication>
  /** One receipt for all that `publishMany` has published. */
  waitForAll(publication: BulkPublication, options: { timeoutMs: number }): Promise<Pick<Receipt, 'gateways' | 'unconfirmed'>>
  /** False when there is no such gateway. */
  declareGone(gatewayId: string): Promise<boolean>
}

/** A request as it was sent, with field names in lower case. */
export interface SignedRequest {
  readonly method: string
  /** Path with query. */
  readonly url: string
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly body: string | undefined
}

export type CheckedSignature = { readonly keyId: KeyId } | { readonly code: ProblemCode; readonly detail: string }

export interface ApiDeps {
  readonly db: Database
  readonly sealer: Sealer
  readonly temporal: Client
  readonly propagation: Propagation
  /** Which active key has signed a request (RFC 9421), which counts once. */
  readonly checkSignature: (request: SignedRequest) => Promise<CheckedSignature>
  /** Tells people through the alerts topic. The time of the alert is set there. */
  readonly alert: (alert: Omit<Alert, 'at'>) => Promise<void>
  /** Has a client told that a claim of its key was used twice, in the background. */
  readonly tellOfSecondClaim: (keyId: KeyId) => void
  /** Has leaks answered, in the background; what does not begin now is begun later. */
  readonly respond: (leakIds: readonly LeakId[]) => void
  /** Resolves when Kafka answers; for /readyz. */
  readonly pingKafka: () => Promise<void>
  readonly clock: () => Date
  readonly log: Logger
  readonly config: {
    readonly brand: string
    readonly operatorToken: string
    /** Who else may report leaks; without a reporter's token, keys or signature token, they may not. */
    readonly leaks: {
      readonly reporterToken?: string
      readonly githubKeys?: GithubKeys
      readonly gitguardianToken?: string
    }
    /** Without a slash at the end. A function where the port is known only after listening. */
    readonly publicUrl: string | (() => string)
    /** So many proxies before the API are believed on who calls. */
    readonly trustedProxies: number
    readonly taskQueue: string
    /** Where webhooks may lead besides public addresses. */
    readonly webhookAllow: readonly AddressBlock[]
    /** How long each key signs session tokens. */
    readonly sessionKeyPeriodMs: number
    /** What gateways show, and what the answers to them are signed with. Without it there is no fallback. */
    readonly fallback?: { readonly gatewayToken: string; readonly signingKey: KeyObject } | undefined
  }
}

/** Where clients find the API: no slash at its end. */
export const publicUrlOf = ({ publicUrl }: Pick<ApiDeps['config'], 'publicUrl'>): string =>
  typeof publicUrl === 'string' ? publicUrl : publicUrl()

/** What a client fetches a key with: the code of its claim, and its address for programs and for people. */
export function claimLinks(config: Pick<ApiDeps['config'], 'publicUrl'>, claim: string) {
  const publicUrl = publicUrlOf(config)
  return { claim, claimUrl: `${publicUrl}/v1/claims/${claim}`, claimPage: `${publicUrl}/claim#${claim}` }
}
