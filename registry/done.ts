/** A client's word that it does not use its old key any more. It counts as far as the evidence does not contradict it (G2). */
import type { KeyId, RotationId, RotationStage, Straggler } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import type { Database } from './database.ts'
import { RegistryError } from './errors.ts'
import { lockRotation } from './rotations.ts'

export type Done =
  /** Noted; or there was nothing left to be said. */
  | { readonly outcome: 'noted'; readonly stage: RotationStage; readonly doneAt?: Date }
  | { readonly outcome: 'wrong-stage'; readonly stage: RotationStage }
  /** The key that was shown is not the new one of this rotation. */
  | { readonly outcome: 'another-key' }
  | { readonly outcome: 'not-used' }
  /** How the old key was used up to the moment of the word is not known. */
  | { readonly outcome: 'unknown'; readonly silentGateways: readonly string[] }
  | { readonly outcome: 'still-in-use'; readonly by: readonly Straggler[] }

/** While both keys are accepted. */
const OPEN_STAGES: readonly RotationStage[] = ['notifying', 'monitoring', 'held']

/** Up to when the use of every key is known. The table has one row. */
export async function knownThrough(db: Database): Promise<Date | undefined> {
  const [row] = await db.query<{ at: Date | null }>('select complete_through as at from usage_state')
  return row?.at ?? undefined
}

/**
 * @param input.keyId the key that the client has shown
 * @param input.at when it said so: the evidence has to be known up to then
 * @throws RegistryError unknown-rotation
 */
export async function noteDone(
  db: Database,
  { rotationId, keyId, at, from }: { rotationId: RotationId; keyId: KeyId; at: Date; from: string },
): Promise<Done> {
  return db.tx(async (tx) => {
    const rotation = await lockRotation(tx, rotationId)
    const { stage, new_key_id: newKeyId, old_key_id: oldKeyId } = rotation
    if (newKeyId !== keyId) return { outcome: 'another-key' }
    if (stage === 'deactivating' || stage === 'completed') return { outcome: 'noted', stage }
    if (!OPEN_STAGES.includes(stage)) return { outcome: 'wrong-stage', stage }
    const { rows } = await tx.query<{
      complete_through: Date | null
      silent_gateways: string[]
      new_first_used_at: Date | null
      done_at: Date | null
    }>('select complete_through, silent_gateways, new_first_used_at, done_at from rotation_evidence where rotation_id = $1', [
      rotationId,
    ])
    const [known] = rows
    if (known === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${rotationId}`)
    if (known.complete_through === null || known.complete_through < at)
      return { outcome: 'unknown', silentGateways: known.silent_gateways }
    if (known.new_first_used_at === null) return { outcome: 'not-used' }
    const by = await stragglers(tx, oldKeyId, newKeyId)
    if (by.length > 0) return { outcome: 'still-in-use', by }
    // It stands, and the quiet that it needs is under way.
    if (known.done_at !== null) return { outcome: 'noted', stage, doneAt: known.done_at }
    await tx.query('update rotations set done_at = $2, done_key_id = $3 where rotation_id = $1', [rotationId, at, keyId])
    await appendAudit(tx, {
      at,
      actor: 'client',
      action: 'rotation.done',
      subject: rotationId,
      rotationId,
      detail: { keyId, from },
    })
    return { outcome: 'noted', stage, doneAt: at }
  })
}

/** Primary keys of key_usage and key_sources. */
async function stragglers(tx: Parameters<typeof lockRotation>[0], oldKeyId: KeyId | null, newKeyId: KeyId): Promise<Straggler[]> {
  const { rows } = await tx.query<{ address: string; user_agent: string; count: number; last_at: Date }>(
    'select * from rotation_stragglers($1, $2) order by last_at desc',
    [oldKeyId, newKeyId],
  )
  return rows.map((s) => ({ address: s.address, userAgent: s.user_agent, count: s.count, lastAt: s.last_at.toISOString() }))
}
