/** Keys that clients show to the control plane itself. */
import type { CredentialId, KeyId, KeyState } from '@keyturn/contract'
import type { Database } from './database.ts'

/** The token that was sent as a bearer, hashed (base64); or the key that has signed. */
export type Shown = { readonly tokenSha256: string } | { readonly keyId: KeyId }

export interface ShownKey {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly state: KeyState
}

/** How a statement finds it, as its first parameter. A key that signs has no token to be found by. Index keys_by_verifier, or primary key. */
export const shownIs = (shown: Shown, alias: string): { readonly condition: string; readonly value: string } =>
  'keyId' in shown
    ? { condition: `${alias}.key_id = $1`, value: shown.keyId }
    : { condition: `${alias}.verifier_sha256 = $1`, value: shown.tokenSha256 }

export async function keyOf(db: Database, shown: Shown): Promise<ShownKey | undefined> {
  const { condition, value } = shownIs(shown, 'k')
  const [key] = await db.query<ShownKey>(
    `select k.key_id as "keyId", k.credential_id as "credentialId", k.state from keys k where ${condition}`,
    [value],
  )
  return key
}
