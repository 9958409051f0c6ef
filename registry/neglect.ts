/** What nobody looks after: keys that expire before they are replaced, and credentials that nobody uses. */
import type { ClientId, CredentialId, Environment, KeyId } from '@keyturn/contract'
import type { Database } from './database.ts'

export interface ExpiringKey {
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly expiresAt: Date
  readonly policy: string | null
}

/** How long before a key expires its rotation must have begun: under a policy its overlap, otherwise this. */
export interface ExpiryNotice {
  readonly byPolicy: ReadonlyMap<string, number>
  readonly otherwiseMs: number
}

/** A key in a rotation that goes on is being replaced; one in a rotation that is held is not. Indexes keys_expiring, rotations_open. */
export const EXPIRING = `
select k.key_id as "keyId", k.credential_id as "credentialId", k.expires_at as "expiresAt", c.policy
from keys k join credentials c using (credential_id)
left join unnest($3::text[], $4::bigint[]) as p (name, notice_ms) on p.name = c.policy
where k.standing = 'current' and k.expires_at <= $1::timestamptz + $2::bigint * interval '1 millisecond'
  and k.expires_at <= $1::timestamptz + coalesce(p.notice_ms, $5::bigint) * interval '1 millisecond'
  and not exists (select from key_warnings w where w.key_id = k.key_id and w.expires_at = k.expires_at)
  and not exists (select from rotations r where r.credential_id = k.credential_id and r.ended_at is null and r.stage <> 'held')
order by k.expires_at limit $6`

/** Tells of keys that expire before they are replaced, each once. People are told in the transaction that remembers it. @returns how many */
export async function warnOfExpiry(
  db: Database,
  { at, byPolicy, otherwiseMs, limit }: ExpiryNotice & { at: Date; limit: number },
  tell: (key: ExpiringKey) => Promise<void>,
): Promise<number> {
  const longest = Math.max(otherwiseMs, ...byPolicy.values())
  return db.tx(async (tx) => {
    const values = [at, longest, [...byPolicy.keys()], [...byPolicy.values()], otherwiseMs, limit]
    const { rows } = await tx.query<ExpiringKey>(EXPIRING, values)
    for (const key of rows) {
      await tx.query(
        `insert into key_warnings (key_id, expires_at, told_at) values ($1, $2, $3)
         on conflict (key_id) do update set expires_at = excluded.expires_at, told_at = excluded.told_at`,
        [key.keyId, key.expiresAt, at],
      )
      await tell(key)
    }
    return rows.length
  })
}

export interface UnusedCredential {
  readonly credentialId: CredentialId
  readonly lastUsedAt: Date | null
}

const PAGE = 2_000

/** Some credentials behind a given one, with their last use by any key. Primary keys, and index keys_credential_id_version_key. */
export const LAST_USES = `
select c.credential_id as "credentialId", c.created_at as "createdAt", u.last as "lastUsedAt", p.credential_id is not null as proposed,
  c.current_since is not null as "hasKey"
from (select * from credentials where credential_id > $1 order by credential_id limit $2) c
left join retirement_proposals p using (credential_id)
cross join lateral (
  select max(last_accepted_at) as last from keys k join key_usage using (key_id) where k.credential_id = c.credential_id
) u
order by c.credential_id`

/**
 * Proposes credentials for retirement that have not been used for so long, as far as usage is known, and takes proposals back that have been
 * used since. Goes through all of them, page by page. @returns how many are new
 */
export async function proposeRetirements(
  db: Database,
  { at, unusedMs }: { at: Date; unusedMs: number },
  tell: (credential: UnusedCredential) => Promise<void>,
): Promise<number> {
  const [known] = await db.query<{ through: Date | null }>('select complete_through as through from usage_state')
  if (known?.through == null) return 0
  const since = new Date(Math.min(at.getTime(), known.through.getTime()) - unusedMs)
  let proposed = 0
  let after = ''
  for (;;) {
    const page = await db.query<UnusedCredential & { createdAt: Date; proposed: boolean; hasKey: boolean }>(LAST_USES, [
      after,
      PAGE,
    ])
    for (const { credentialId, lastUsedAt, createdAt, proposed: known, hasKey } of page) {
      const unused = hasKey && createdAt <= since && (lastUsedAt === null || lastUsedAt <= since)
      if (unused && !known && (await propose(db, { credentialId, lastUsedAt }, at, tell))) proposed += 1
      if (!unused && known) await db.query('delete from retirement_proposals where credential_id = $1', [credentialId])
    }
    if (page.length < PAGE) return proposed
    after = page.at(-1)?.credentialId ?? ''
  }
}

const propose = (
  db: Database,
  credential: UnusedCredential,
  at: Date,
  tell: (credential: UnusedCredential) => Promise<void>,
): Promise<boolean> =>
  db.tx(async (tx) => {
    const { rowCount } = await tx.query(
      'insert into retirement_proposals (credential_id, last_used_at, proposed_at) values ($1, $2, $3) on conflict do nothing',
      [credential.credentialId, credential.lastUsedAt, at],
    )
    if (rowCount === 0) return false
    await tell(credential)
    return true
  })

export interface RetirementProposal {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly name: string
  readonly environment: Environment
  readonly policy: string | null
  readonly lastUsedAt: Date | null
  readonly proposedAt: Date
}

/** By credential id, after a given one. Primary keys. */
export const listRetirementProposals = (
  db: Database,
  { after = '', limit }: { after?: string; limit: number },
): Promise<RetirementProposal[]> =>
  db.query(
    `select p.credential_id as "credentialId", c.client_id as "clientId", c.name, c.environment, c.policy, p.last_used_at as "lastUsedAt",
       p.proposed_at as "proposedAt"
     from retirement_proposals p join credentials c using (credential_id) where p.credential_id > $1 order by p.credential_id limit $2`,
    [after, limit],
  )

/** Whether it is time for a chore, and this caller's turn: of several that ask, one is told so. Primary key. */
export async function claimChore(db: Database, name: string, at: Date, everyMs: number): Promise<boolean> {
  const rows = await db.query(
    `insert into chores (name, done_at) values ($1, $2)
     on conflict (name) do update set done_at = excluded.done_at where chores.done_at <= $3 returning name`,
    [name, at, new Date(at.getTime() - everyMs)],
  )
  return rows.length > 0
}
