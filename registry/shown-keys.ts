/** Keys that clients show to the control plane itself. */
import type { CredentialId, KeyId, KeyState } from '@keyturn/contract'
import type { Database } from './database.ts'

export interface ShownKey {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly state: KeyState
}

/**
 * The key of a token that was sent as a bearer; nothing for one that signs requests. Index keys_by_verifier.
 * @param tokenSha256 in base64
 */
export async function bearerKey(db: Database, tokenSha256: string): Promise<ShownKey | undefined> {
  const [key] = await db.query<ShownKey>(
    `select key_id as "keyId", credential_id as "credentialId", state from keys
     where verifier_sha256 = $1 and verifier ->> 'kind' = 'bearer'`,
    [tokenSha256],
  )
  return key
}
