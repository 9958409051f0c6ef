import type { CredentialId, Evidence, HeldFor, KeyId, RotationId, RotationRequest, RotationStage } from '@keyturn/contract'
import type { Database } from '../registry/database.ts'
import { RegistryError } from '../registry/errors.ts'
import { deprecateKey, getKey } from '../registry/keys.ts'
import * as registry from '../registry/rotations.ts'
import { readEvidence as evidenceOf, forgetTold } from '../registry/usage.ts'
import { type By, dated } from './keys.ts'

/** The rotation's own record: what it is, where it stands, what is known. */
export function createRotationActivities({ db }: { db: Database }) {
  const openRotation = async (
    input: RotationRequest & { credentialId: CredentialId; at: number },
  ): Promise<{ oldKey: { keyId: KeyId; version: number } }> => {
    const rotation = await registry.openRotation(db, dated(input))
    const oldKey = rotation.oldKeyId === undefined ? undefined : await getKey(db, rotation.oldKeyId)
    if (oldKey === undefined)
      throw new RegistryError('illegal-transition', `credential ${input.credentialId} has no current key to rotate`)
    return { oldKey: { keyId: oldKey.keyId, version: oldKey.version } }
  }

  const enterStage = async (
    input: By & { stage: RotationStage; reason?: string; heldFor?: HeldFor; unconfirmed?: readonly string[] },
  ): Promise<void> => {
    await registry.enterStage(db, dated(input))
  }

  /** Marks a running rotation as an emergency. */
  const takeOver = async (input: By & { reason: string }): Promise<void> => {
    await registry.takeOverRotation(db, { ...dated(input), trigger: 'emergency' })
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
