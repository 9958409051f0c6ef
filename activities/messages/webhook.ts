import type { KeyKind, LeakId, NotificationKind, RotationId } from '@keyturn/contract'
import type { LeakFacts } from '../../registry/leaks.ts'
import type { Facts } from './facts.ts'

/**
 * What a client's webhook receives, signed as Standard Webhooks has it. A POST to `claimUrl` hands out the new token once; of an `ed25519`
 * credential, it enrols the public key in it.
 */
export interface Notification {
  readonly type: `keyturn.rotation.${NotificationKind}`
  readonly timestamp: string
  readonly data: {
    readonly rotationId: RotationId
    readonly credentialId: string
    readonly credential: string
    readonly environment: string
    readonly kind: KeyKind
    readonly oldKey?: { readonly keyId: string; readonly state: string }
    readonly newKey?: { readonly keyId: string; readonly state: string }
    readonly sunsetAt?: string
    readonly claimUrl?: string
    /** Where the new key has been written: there is nothing to claim then. */
    readonly writtenTo?: string
    readonly stragglers: readonly { readonly address: string; readonly userAgent: string; readonly lastAt: string }[]
    /** Why, when a leak is the reason. */
    readonly leaks?: readonly ToldLeak[]
  }
}

interface ToldLeak {
  readonly leakId: LeakId
  readonly keyId: string
  readonly reportedAt: string
  readonly sources: readonly { readonly source: string; readonly url: string }[]
}

/** What a client hears of a leak that needs no rotation: the key was dead already. */
export interface LeakNotification {
  readonly type: 'keyturn.leak.reported'
  readonly timestamp: string
  readonly data: ToldLeak & {
    readonly credentialId: string
    readonly credential: string
    readonly environment: string
    readonly key: { readonly keyId: string; readonly version: number; readonly state: string }
  }
}

/** What a client hears of a claim that somebody has used after it had been used. */
export interface ClaimNotification {
  readonly type: 'keyturn.claim.used-twice'
  readonly timestamp: string
  readonly data: { readonly credentialId: string; readonly credential: string; readonly environment: string }
}

const toldLeak = ({ leakId, keyId, reportedAt, sources }: LeakFacts): ToldLeak => ({
  leakId,
  keyId,
  reportedAt: reportedAt.toISOString(),
  sources,
})

/** @param publicUrl where clients reach the API; without it no claim URL is in it */
export function webhookBody(facts: Facts, publicUrl?: string): Notification | LeakNotification | ClaimNotification {
  const { message, credential, rotation, oldKey, newKey, claimCode, place, evidence, leaks } = facts
  const timestamp = new Date().toISOString()
  const { credentialId, name, environment, kind } = credential
  const whose = { credentialId, credential: name, environment }
  if (rotation === undefined) {
    const [leak] = leaks
    if (leak === undefined || oldKey === undefined) return { type: 'keyturn.claim.used-twice', timestamp, data: whose }
    const key = { keyId: oldKey.keyId, version: oldKey.version, state: oldKey.state }
    return { type: 'keyturn.leak.reported', timestamp, data: { ...toldLeak(leak), ...whose, key } }
  }
  return {
    type: `keyturn.rotation.${message}`,
    timestamp,
    data: {
      rotationId: rotation.rotationId,
      ...whose,
      kind,
      ...(oldKey === undefined ? {} : { oldKey: { keyId: oldKey.keyId, state: oldKey.state } }),
      ...(newKey === undefined ? {} : { newKey: { keyId: newKey.keyId, state: newKey.state } }),
      ...(oldKey?.sunsetAt === undefined ? {} : { sunsetAt: oldKey.sunsetAt.toISOString() }),
      ...(claimCode === undefined || publicUrl === undefined ? {} : { claimUrl: `${publicUrl}/v1/claims/${claimCode}` }),
      ...(place === undefined ? {} : { writtenTo: place }),
      stragglers: (evidence?.stragglers ?? []).map(({ address, userAgent, lastAt }) => ({ address, userAgent, lastAt })),
      ...(leaks.length === 0 ? {} : { leaks: leaks.map(toldLeak) }),
    },
  }
}
