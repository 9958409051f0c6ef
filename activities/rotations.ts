import type {
  CredentialId,
  Evidence,
  HeldFor,
  KeyId,
  RotationId,
  RotationPolicy,
  RotationRequest,
  RotationStage,
  TimelineEntry,
  Trigger,
} from '@keyturn/contract'
import { adoptRotation, type LeftRotation } from '../registry/adoption.ts'
import { claimOfKey } from '../registry/claims.ts'
import type { Database } from '../registry/database.ts'
import { RegistryError } from '../registry/errors.ts'
import { deprecateKey, getKey, type KeyRow } from '../registry/keys.ts'
import * as registry from '../registry/rotations.ts'
import { readEvidence as evidenceOf, forgetTold } from '../registry/usage.ts'
import { type By, dated, type IssuedKey, type OldKey } from './keys.ts'

/** A rotation that is on record: a fresh one, or one that an earlier run of its workflow has left open. */
export interface OpenedRotation {
  readonly rotationId: RotationId
  readonly trigger: Trigger
  readonly policy: RotationPolicy
  readonly oldKey: OldKey
  /** How it was left. */
  readonly left?: {
    /** The way to go on. */
    readonly course: 'replace' | 'roll-back' | 'emergency'
    readonly reason: string
    readonly stage: RotationStage
    readonly heldFor?: HeldFor
    readonly timeline: readonly TimelineEntry[]
    readonly oldKeyOff: boolean
    readonly newKey?: IssuedKey
    readonly newKeyRetired: boolean
    /** In milliseconds of the epoch. */
    readonly deadline?: number
  }
}

/** The rotation's own record: what it is, where it stands, what is known. */
export function createRotationActivities({ db }: { db: Database }) {
  /** Opens the rotation; or goes on with the one that is open: its workflow is gone, for there is one at a time of each credential. */
  const openRotation = async (input: RotationRequest & { credentialId: CredentialId; at: number }): Promise<OpenedRotation> => {
    try {
      const { rotationId, trigger, policy, oldKeyId } = await registry.openRotation(db, dated(input))
      return { rotationId, trigger, policy, oldKey: oldKeyOf(await needKey(oldKeyId)) }
    } catch (error) {
      if (!(error instanceof RegistryError) || error.code !== 'wrong-stage') throw error
      const left = await adoptRotation(db, { ...dated(input), request: input.rotationId })
      // It has ended since: the next try opens one.
      if (left === undefined) throw error
      return readLeft(left)
    }
  }

  async function readLeft(left: LeftRotation): Promise<OpenedRotation> {
    const rotation = await registry.getRotation(db, left.rotationId)
    if (rotation === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${left.rotationId}`)
    const { rotationId, trigger, policy, deadline, timeline, stage, heldFor } = rotation
    const oldKey = await needKey(rotation.oldKeyId)
    const newKey = rotation.newKeyId === undefined ? undefined : await needKey(rotation.newKeyId)
    const emergency = trigger === 'emergency' || oldKey.state === 'compromised'
    return {
      rotationId,
      trigger,
      policy,
      oldKey: oldKeyOf(oldKey),
      left: {
        course: emergency ? 'emergency' : left.stage === 'rolling-back' ? 'roll-back' : 'replace',
        reason: left.reason ?? rotation.reason,
        stage,
        timeline,
        oldKeyOff: oldKey.state === 'deactivated',
        ...(heldFor === undefined ? {} : { heldFor }),
        newKeyRetired: newKey?.standing === 'retired',
        ...(newKey === undefined ? {} : { newKey: { ...keyOf(newKey), ...(await writtenOf(newKey)) } }),
        ...(deadline === undefined ? {} : { deadline: deadline.getTime() }),
      },
    }
  }

  async function writtenOf({ keyId }: KeyRow): Promise<{ written?: true }> {
    const claim = await claimOfKey(db, keyId)
    return claim?.written === 'due' || claim?.written === 'done' ? { written: true } : {}
  }

  async function needKey(keyId: KeyId | undefined): Promise<KeyRow> {
    const key = keyId === undefined ? undefined : await getKey(db, keyId)
    if (key === undefined) throw new RegistryError('not-found', `there is no key ${keyId}`)
    return key
  }

  const enterStage = async (
    input: By & { stage: RotationStage; reason?: string; heldFor?: HeldFor; unconfirmed?: readonly string[] },
  ): Promise<void> => {
    await registry.enterStage(db, dated(input))
  }

  /** Marks a running rotation as one that kills its old key; `graceMs`: once the client has had time to switch over. */
  const takeOver = async ({
    trigger = 'emergency',
    ...input
  }: By & { reason: string; trigger?: 'emergency' | 'leak'; graceMs?: number }): Promise<void> => {
    await registry.takeOverRotation(db, { ...dated(input), trigger })
  }

  /** Moves the end of the overlap window: deadline, sunset of the old key, expiry of the claim. */
  const extendOverlap = async (
    input: By & { keyId: KeyId; successor: number; deadline: number; reason: string },
  ): Promise<void> => {
    const deadline = new Date(input.deadline)
    await registry.setDeadline(db, { ...dated(input), deadline })
    await deprecateKey(db, { ...dated(input), sunsetAt: deadline })
  }

  /** Begins to monitor, or begins again: the collector tells its facts anew. */
  const startMonitoring = async (by: By): Promise<Evidence> => {
    await registry.enterStage(db, { ...dated(by), stage: 'monitoring' })
    await forgetTold(db, by.rotationId)
    return evidenceOf(db, by.rotationId)
  }

  const readEvidence = ({ rotationId }: { rotationId: RotationId }): Promise<Evidence> => evidenceOf(db, rotationId)

  return { openRotation, enterStage, takeOver, extendOverlap, startMonitoring, readEvidence }
}

const keyOf = ({ keyId, version }: KeyRow): IssuedKey => ({ keyId, version })
const oldKeyOf = (key: KeyRow): OldKey => ({
  ...keyOf(key),
  ...(key.expiresAt === undefined ? {} : { expiresAt: key.expiresAt.getTime() }),
})
