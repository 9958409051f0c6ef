/** Keys as lines, to compare what a gateway holds with what the registry holds. */
import { type KeyRecord, shownSha256, type Verifier } from '@keyturn/contract'
import type { KeyCache } from '@keyturn/gateway'
import type { Database } from '../../registry/database.ts'

type Described = Pick<KeyRecord, 'keyId' | 'credentialId' | 'clientId' | 'environment' | 'version' | 'state' | 'revision'> & {
  readonly scopes: readonly string[]
  readonly sha256: string | undefined
  /** What checks signatures. */
  readonly signing: Verifier | undefined
  readonly sunsetAt: number | undefined
  readonly successor: number | undefined
}

const line = (key: Described): string =>
  [
    key.keyId,
    key.state,
    key.revision,
    key.sha256,
    // PostgreSQL has an order of its own for what is in it.
    JSON.stringify(Object.entries(key.signing ?? {}).sort()),
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
  const rows = await db.query<Omit<Described, 'sha256' | 'signing'> & { verifier: Verifier }>(
    `select key_id as "keyId", state, revision, verifier, scopes, version, environment,
       credential_id as "credentialId", client_id as "clientId", (extract(epoch from sunset_at) * 1000)::float8 as "sunsetAt", successor
     from keys join credentials using (credential_id)`,
  )
  return rows
    .map(({ verifier, ...row }) => {
      const { sunsetAt, successor } = row
      const signing = verifier.kind === 'bearer' ? undefined : verifier
      const checked = { sha256: shownSha256(verifier), signing }
      return line({ ...row, ...checked, sunsetAt: sunsetAt ?? undefined, successor: successor ?? undefined })
    })
    .sort()
}
