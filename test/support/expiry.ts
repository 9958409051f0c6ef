import type { KeyId } from '@keyturn/contract'
import { appendAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'

/** Has a key expire: one that was issued under another policy, or imported. */
export async function letExpire(db: Database, keyId: KeyId, expiresAt: Date): Promise<void> {
  await db.tx(async (tx) => {
    const { rows } = await tx.query<{ revision: number }>(
      'update keys set expires_at = $2, revision = revision + 1 where key_id = $1 returning revision',
      [keyId, expiresAt],
    )
    await appendAudit(tx, {
      at: new Date(),
      actor: 'test',
      action: 'key.updated',
      subject: keyId,
      ...(rows[0] === undefined ? {} : { revision: rows[0].revision }),
    })
  })
}
