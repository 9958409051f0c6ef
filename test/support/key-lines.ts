/** Keys as lines, to compare what a gateway holds with what the registry holds. */
import type { KeyRecord } from '@keyturn/contract'
import type { KeyCache } from '@keyturn/gateway'
import type { Database } from '../../registry/database.ts'

type Described = Pick<KeyRecord, 'keyId' | 'credentialId' | 'clientId' | 'environment' | 'version' | 'state' | 'revision'> & {
  readonly scopes: readonly string[]
  readonly sha256: string | undefined
  readonly sunsetAt: number | undefined
  readonly successor: number | undefined
}

const line = (key: Described): string =>
  [
    key.keyId,
    key.state,
    key.revision,
    key.sha256,
    key.scopes.join('+'),
    key.version,
    key.environment,
    key.credentialId,
    key.clientId,
    key.sunsetAt,
    key.successor,
  ].join(' ')

/** All keys that a gateway holds, a line each. */
export const linesOf = (cache: KeyCache): string[] => [...cache.entries()].map((entry) => line(entry)).sort()

/** All keys of the registry, in the same words. */
export async function registryLines(db: Database): Promise<string[]> {
  const rows = await db.query<Described>(
    `select key_id as "keyId", state, revision, verifier_sha256 as sha256, scopes, version, environment,
       credential_id as "credentialId", client_id as "clientId", (extract(epoch from sunset_at) * 1000)::float8 as "sunsetAt", successor
     from keys join credentials using (credential_id)`,
  )
  return rows.map((row) => line({ ...row, sunsetAt: row.sunsetAt ?? undefined, successor: row.successor ?? undefined })).sort()
}
