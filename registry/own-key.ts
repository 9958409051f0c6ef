/** What a key may know of itself. Asking is no use of the key: whoever waits for its successor must not keep it alive. */
import type { CredentialId, Environment, KeyId, RotationId } from '@keyturn/contract'
import { type Database, first } from './database.ts'
import { type Shown, shownIs } from './shown-keys.ts'

export interface OwnKey {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly environment: Environment
  readonly version: number
  readonly standing: 'current' | 'successor' | 'retired'
  readonly expiresAt: Date | null
  /** With it, the version of its successor. */
  readonly sunsetAt: Date | null
  readonly successor: number | null
  /** Of the latest request that a gateway has accepted and reported. */
  readonly lastUsedAt: Date | null
  /** Of the rotation that its credential is in. */
  readonly rotationId: RotationId | null
}

/** The key that is shown, when it is accepted; nothing for any other. Indexes keys_by_verifier or keys_pkey, key_usage_pkey, rotations_open. */
export const ownKey = (db: Database, shown: Shown, at: Date): Promise<OwnKey | undefined> => {
  const { condition, value } = shownIs(shown, 'k')
  return db.tx((tx) =>
    first<OwnKey>(
      tx,
      `select k.key_id as "keyId", k.credential_id as "credentialId", c.environment, k.version, k.standing, k.expires_at as "expiresAt",
         k.sunset_at as "sunsetAt", k.successor, u.last_accepted_at as "lastUsedAt", r.rotation_id as "rotationId"
       from keys k join credentials c using (credential_id)
         left join key_usage u using (key_id)
         left join rotations r on r.credential_id = k.credential_id and r.ended_at is null
       where ${condition} and k.state = 'active' and k.not_before <= $2 and (k.expires_at is null or k.expires_at > $2)`,
      [value, at],
    ),
  )
}
