/** Which credentials there are, by whose they are: how somebody who has imported keys finds what to rotate. */
import type { ClientId, CredentialId, Environment, KeyKind } from '@keyturn/contract'
import type { Database } from './database.ts'

export interface ListedCredential {
  readonly credentialId: CredentialId
  readonly name: string
  readonly environment: Environment
  readonly clientId: ClientId
  readonly clientName: string
  readonly scopes: readonly string[]
  readonly kind: KeyKind
  readonly policy: string | null
}

export interface CredentialFilter {
  readonly clientId?: string
  /** Of all clients that have it. */
  readonly clientName?: string
  /** Those after this one. */
  readonly after?: string
  readonly limit: number
}

/** By their ids. Primary key; indexes credentials_client_id_environment_name_key, clients_by_name. */
export function listCredentials(db: Database, filter: CredentialFilter): Promise<ListedCredential[]> {
  const { clientId, clientName, after = '', limit } = filter
  const values: unknown[] = [after, limit]
  const conditions = ['c.credential_id > $1']
  if (clientId !== undefined) conditions.push(`c.client_id = $${values.push(clientId)}`)
  if (clientName !== undefined)
    conditions.push(`c.client_id = any(array(select client_id from clients where name = $${values.push(clientName)}))`)
  return db.query(
    `select c.credential_id as "credentialId", c.name, c.environment, c.client_id as "clientId",
       (select o.name from clients o where o.client_id = c.client_id) as "clientName", c.scopes, c.kind, c.policy
     from credentials c where ${conditions.join(' and ')} order by c.credential_id limit $2`,
    values,
  )
}
