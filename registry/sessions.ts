/** Which key a session is for. To trade a key is to use it. */
import type { ClientId, Environment, KeyId } from '@keyturn/contract'
import { type Database, first } from './database.ts'
import { type Shown, shownIs } from './shown-keys.ts'

export interface SessionKey {
  readonly keyId: KeyId
  readonly clientId: ClientId
  readonly environment: Environment
  readonly scopes: readonly string[]
  readonly expiresAt: Date | null
}

/**
 * The accepted key that a client shows, counted as used (G2); nothing for any other. A token that signs requests is none of those that may be sent.
 * Indexes keys_by_verifier or primary key, key_usage_pkey.
 */
export async function keyForSession(db: Database, shown: Shown, at: Date): Promise<SessionKey | undefined> {
  const { condition, value } = shownIs(shown, 'k')
  return db.tx(async (tx) => {
    const key = await first<SessionKey>(
      tx,
      `select k.key_id as "keyId", c.client_id as "clientId", c.environment, c.scopes, k.expires_at as "expiresAt"
       from keys k join credentials c using (credential_id)
       where ${condition} and k.state = 'active'
         and k.not_before <= $2 and (k.expires_at is null or k.expires_at > $2) for share of k`,
      [value, at],
    )
    if (key === undefined) return undefined
    await tx.query(
      `insert into key_usage as u (key_id, first_accepted_at, last_accepted_at, accepted) values ($1, $2, $2, 1)
       on conflict (key_id) do update set accepted = u.accepted + 1,
         first_accepted_at = least(u.first_accepted_at, excluded.first_accepted_at),
         last_accepted_at = greatest(u.last_accepted_at, excluded.last_accepted_at)`,
      [key.keyId, at],
    )
    return key
  })
}
