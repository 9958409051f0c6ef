/** Many credentials at once, each with a key that its client holds: written in bulk, for what is measured or killed by thousands. */
import { type CredentialId, type KeyId, newKeyId, newToken, randomBase62, tokenSha256 } from '@keyturn/contract'
import type { Database } from '../../registry/database.ts'

export interface FleetMember {
  readonly credentialId: CredentialId
  readonly keyId: KeyId
  readonly token: string
}

/** Ten clients with `count` credentials of environment `prod` and these scopes; nothing is published. */
export async function makeFleet(db: Database, count: number, scopes: readonly string[]): Promise<FleetMember[]> {
  const members = Array.from({ length: count }, (): FleetMember => {
    const keyId = newKeyId()
    const credentialId = `crd_${randomBase62(16)}` as CredentialId
    return { credentialId, keyId, token: newToken({ brand: 'kt', environment: 'prod', keyId }) }
  })
  const clients = Array.from({ length: 10 }, () => `cli_${randomBase62(16)}`)
  const column = (of: (member: FleetMember) => string): string[] => members.map(of)
  await db.tx(async (tx) => {
    // Without an audit entry for each: they stand for what has long been there.
    await tx.query('set local session_replication_role = replica')
    await tx.query(`insert into clients (client_id, name, created_at) select unnest($1::text[]), 'Acme', now()`, [clients])
    await tx.query(
      `insert into credentials (credential_id, client_id, name, environment, scopes, created_at)
       select m.id, ($2::text[])[1 + m.place % 10], 'feed ' || m.place, 'prod', $3, now()
       from unnest($1::text[]) with ordinality m (id, place)`,
      [column(({ credentialId }) => credentialId), clients, scopes],
    )
    await tx.query(
      `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
       select m.key_id, m.credential_id, 1, 'active', 'current', 'keyturn.key.introduced',
         jsonb_build_object('kind', 'bearer', 'sha256', m.sha256), now() - interval '1 minute', now()
       from unnest($1::text[], $2::text[], $3::text[]) m (key_id, credential_id, sha256)`,
      [column(({ keyId }) => keyId), column(({ credentialId }) => credentialId), column(({ token }) => tokenSha256(token))],
    )
  })
  return members
}
