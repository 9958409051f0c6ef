/** Nonces of requests that clients have signed for the control plane itself: each counts once, whichever process takes it. */
import type { KeyId } from '@keyturn/contract'
import type { Database } from './database.ts'

/** Primary key. @returns false when it has been taken before */
export async function takeNonce(
  db: Database,
  { keyId, nonce, forgetAt }: { keyId: KeyId; nonce: string; forgetAt: Date },
): Promise<boolean> {
  const taken = await db.query(
    'insert into signed_requests (key_id, nonce, forget_at) values ($1, $2, $3) on conflict do nothing returning key_id',
    [keyId, nonce, forgetAt],
  )
  return taken.length > 0
}

/** Forgets those of requests that are stale by now. Index signed_requests_over. */
export async function forgetNonces(db: Database, at: Date): Promise<void> {
  await db.query('delete from signed_requests where forget_at <= $1', [at])
}
