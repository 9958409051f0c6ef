import type { CredentialId, RotationId, RotationStage } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first } from './database.ts'

export interface LeftRotation {
  readonly rotationId: RotationId
  /** Where it was when its workflow ended; what it was held in, when it was held. */
  readonly stage: RotationStage
  readonly reason?: string
}

/**
 * A rotation whose workflow is gone (terminated, or lost with Temporal's data) is open in the registry, and nobody looks after it.
 * The credential's next workflow goes on with it. What the collector has told the last one is forgotten: it tells it anew.
 * @param input.request the id of the request that found it; the same one adopts it once
 * @returns undefined when no rotation of the credential is open
 */
export async function adoptRotation(
  db: Database,
  input: { credentialId: CredentialId; request: RotationId; reason: string; at: Date; actor: string },
): Promise<LeftRotation | undefined> {
  return db.tx(async (tx) => {
    // Index rotations_open.
    const open = await first<{ rotation_id: RotationId }>(
      tx,
      'select rotation_id from rotations where credential_id = $1 and ended_at is null for no key update',
      [input.credentialId],
    )
    if (open === undefined) return undefined
    const rotationId = open.rotation_id
    await tx.query(`update rotations set told = '{}' where rotation_id = $1`, [rotationId])
    // Index audit_by_rotation.
    const adopted = await first(
      tx,
      `select from audit where rotation_id = $1 and action = 'rotation.adopted' and detail ->> 'request' = $2`,
      [rotationId, input.request],
    )
    if (adopted === undefined) {
      const { at, actor, reason, request } = input
      await appendAudit(tx, {
        at,
        actor,
        action: 'rotation.adopted',
        subject: rotationId,
        rotationId,
        detail: { request, reason },
      })
    }
    // Primary key.
    const last = await first<{ stage: RotationStage; reason: string | null }>(
      tx,
      `select stage, reason from rotation_stages where rotation_id = $1 and stage <> 'held' order by seq desc limit 1`,
      [rotationId],
    )
    return {
      rotationId,
      stage: last?.stage ?? 'requested',
      ...(last?.reason == null ? {} : { reason: last.reason }),
    }
  })
}
