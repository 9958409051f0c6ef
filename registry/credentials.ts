import {
  type Allow,
  type ClientId,
  type CredentialId,
  type Environment,
  type KeyDelivery,
  type KeyId,
  type KeyKind,
  type Labels,
  randomBase62,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import type { Database } from './database.ts'
import { CLAIM, stored } from './delivery-rows.ts'
import { RegistryError, SQL_STATES, sqlState, violated } from './errors.ts'
import { expiring, insertKey } from './keys.ts'
import { policyForNew } from './policies.ts'
import type { Sealer } from './sealing.ts'

export interface Credential {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly name: string
  readonly environment: Environment
  readonly scopes: readonly string[]
  readonly allow?: Allow
  readonly labels: Labels
  readonly kind: KeyKind
  readonly delivery: KeyDelivery
  /** The name of its policy. */
  readonly policy?: string
  readonly createdAt: Date
}

export interface NewCredential {
  readonly clientId: string
  readonly name: string
  readonly environment: Environment
  readonly scopes: readonly string[]
  readonly allow?: Allow | undefined
  readonly labels?: Labels
  /** `bearer` unless given. */
  readonly kind?: KeyKind
  /** Of an ed25519 credential, when its client's public key is known already: base64. */
  readonly publicKey?: string | undefined
  /** How its keys reach the client: by a claim unless given. */
  readonly delivery?: KeyDelivery
  readonly brand: string
  readonly sealer: Sealer
  readonly claimExpiresAt: Date
  readonly at: Date
  readonly actor: string
}

/**
 * A credential with its first key, and the claim for it, unless its client's public key is known already.
 * @throws RegistryError unknown-client, name-taken, public-key-taken
 */
export async function createCredential(
  db: Database,
  input: NewCredential,
): Promise<{ credentialId: CredentialId; keyId: KeyId; version: 1; revision: number; claimId?: string }> {
  const credentialId = `crd_${randomBase62(16)}` as CredentialId
  const { clientId, name, environment, scopes, allow, labels = {}, kind = 'bearer', delivery, at, actor } = input
  try {
    return await db.tx(async (tx) => {
      const { rowCount } = await tx.query('select from clients where client_id = $1', [clientId])
      if (rowCount === 0) throw new RegistryError('unknown-client', `there is no client ${clientId}`)
      const policy = await policyForNew(tx, { clientId, environment, scopes, labels })
      await tx.query(
        'insert into credentials (credential_id, client_id, name, environment, scopes, labels, policy, created_at, allow, kind, delivery) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)',
        [credentialId, clientId, name, environment, scopes, labels, policy?.name, at, allow, kind, stored(delivery)],
      )
      await appendAudit(tx, {
        at,
        actor,
        action: 'credential.created',
        subject: credentialId,
        detail: {
          name,
          environment,
          scopes,
          labels,
          ...(kind === 'bearer' ? {} : { kind }),
          ...(allow === undefined ? {} : { allow }),
          ...(stored(delivery) === null ? {} : { delivery }),
        },
      })
      const expiryMs = policy?.rotation.expiryMs
      const key = await insertKey(tx, { ...input, credentialId, version: 1, standing: 'current', ...expiring(at, expiryMs) })
      return { credentialId, ...key, version: 1, revision: 1 }
    })
  } catch (error) {
    if (sqlState(error) === SQL_STATES.uniqueViolation && violated(error) === 'credentials_client_id_environment_name_key') {
      throw new RegistryError(
        'name-taken',
        `the client has a credential "${name}" in ${environment} already: choose another name`,
        { cause: error },
      )
    }
    throw error
  }
}

/** Primary key. */
export async function getCredential(db: Database, credentialId: string): Promise<Credential | undefined> {
  const [row] = await db.query<
    Omit<Credential, 'policy' | 'allow' | 'delivery'> & {
      policy: string | null
      allow: Allow | null
      delivery: KeyDelivery | null
    }
  >(
    `select credential_id as "credentialId", client_id as "clientId", name, environment, scopes, allow, labels, kind, delivery, policy, created_at as "createdAt"
     from credentials where credential_id = $1`,
    [credentialId],
  )
  if (row === undefined) return undefined
  const { policy, allow, delivery, ...credential } = row
  return {
    ...credential,
    delivery: delivery ?? CLAIM,
    ...(policy === null ? {} : { policy }),
    ...(allow === null ? {} : { allow }),
  }
}
