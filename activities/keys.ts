import type { Evidence, KeyId, RotationId } from '@keyturn/contract'
import type { Database } from '../registry/database.ts'
import * as registry from '../registry/keys.ts'
import type { Sealer } from '../registry/sealing.ts'
import type { Propagation } from './propagation.ts'

/** Which rotation changes something, on whose word, and when (milliseconds of the epoch, in the workflow's time). */
export interface By {
  readonly rotationId: RotationId
  readonly actor: string
  readonly at: number
}

/** A key of a rotation. */
export interface IssuedKey {
  readonly keyId: KeyId
  readonly version: number
  /** It goes into its client's store; in a history from before there were such, it is absent. */
  readonly written?: true
}

/** The old key of a rotation. */
export interface OldKey extends IssuedKey {
  /** In milliseconds of the epoch; in a history from before that was looked at, it is absent. */
  readonly expiresAt?: number
}

interface KeyChange extends By {
  readonly keyId: KeyId
  readonly reason: string
}

export interface KeyActivityDeps {
  readonly db: Database
  readonly sealer: Sealer
  readonly brand: string
  readonly propagation: Pick<Propagation, 'publishAhead'>
}

/**
 * Changes of keys: each one transaction of the registry, which also stores the stage that begins with it. What gateways wait
 * for is published from then on, while the workflow goes on to its next step, which makes sure that it is.
 */
export function createKeyActivities({ db, sealer, brand, propagation }: KeyActivityDeps) {
  /** Issues the rotation's new key. Its secret never leaves this process but sealed. */
  const introduceKey = async ({ claimUntil, ...by }: By & { claimUntil: number }): Promise<IssuedKey> => {
    const { keyId, version, written } = await registry.introduceSuccessor(db, {
      ...dated(by),
      brand,
      sealer,
      claimExpiresAt: new Date(claimUntil),
    })
    propagation.publishAhead(keyId)
    return { keyId, version, ...(written ? { written } : {}) }
  }

  /** Sets the sunset of the old key, which gateways announce in-band, and keeps the claim of the new one open until then. */
  const deprecateKey = async (input: By & { keyId: KeyId; sunsetAt: number; successor: number }): Promise<void> => {
    const sunsetAt = new Date(input.sunsetAt)
    await registry.deprecateKey(db, { ...dated(input), sunsetAt, stage: { stage: 'notifying', deadline: sunsetAt } })
    propagation.publishAhead(input.keyId)
  }

  /** Switches the old key off, unless the evidence forbids it (G2). */
  const deactivateKey = async (
    input: KeyChange & { unless: 'used' | 'never' },
  ): Promise<{ deactivated: true } | { deactivated: false; evidence: Evidence }> => {
    const result = await registry.deactivateKey(db, { ...dated(input), stage: { stage: 'deactivating', reason: input.reason } })
    if (!result.deactivated) return result
    propagation.publishAhead(input.keyId)
    return { deactivated: true }
  }

  /** Makes the old key the current one again; not one that was compromised meanwhile (G9), or has expired (G1). */
  const reinstateKey = async (input: KeyChange): Promise<{ reinstated: boolean; expired?: true }> => {
    try {
      await registry.reinstateKey(db, { ...dated(input), stage: { stage: 'rolling-back', reason: input.reason } })
      propagation.publishAhead(input.keyId)
      return { reinstated: true }
    } catch (error) {
      const key = await registry.getKey(db, input.keyId)
      if (key?.state === 'compromised') return { reinstated: false }
      if (key !== undefined && registry.hasExpired(key, new Date(input.at))) return { reinstated: false, expired: true }
      throw error
    }
  }

  /** Switches the new key off, unless the old one has expired: it would be the only one that is accepted (G1). */
  const retireNewKey = async (input: By & { oldKeyId: KeyId; reason: string }): Promise<{ expired?: true }> => {
    try {
      await registry.retireNewKey(db, dated(input))
      return {}
    } catch (error) {
      const key = await registry.getKey(db, input.oldKeyId)
      if (key !== undefined && registry.hasExpired(key, new Date(input.at))) return { expired: true }
      throw error
    }
  }

  /** @param input.disputed whether the new key goes as well when two have claimed it */
  const compromiseKey = async (input: KeyChange & { disputed?: 'too' }): Promise<{ newKeyLost: boolean }> => {
    const stage = { stage: 'deactivating', reason: input.reason } as const
    const { newKeyLost } = await registry.compromiseKey(db, { ...dated(input), stage })
    propagation.publishAhead(input.keyId)
    if (newKeyLost !== undefined) propagation.publishAhead(newKeyLost)
    return { newKeyLost: newKeyLost !== undefined }
  }

  /** Makes the rotation's new key compromised, so that it may issue another. */
  const killNewKey = async (input: KeyChange): Promise<void> => {
    await registry.killNewKey(db, dated(input))
    propagation.publishAhead(input.keyId)
  }

  return { introduceKey, deprecateKey, deactivateKey, reinstateKey, retireNewKey, compromiseKey, killNewKey }
}

export const dated = <T extends { readonly at: number }>(input: T): Omit<T, 'at'> & { readonly at: Date } => ({
  ...input,
  at: new Date(input.at),
})
