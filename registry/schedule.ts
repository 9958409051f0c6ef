/** What a policy's schedule asks of the registry: who is due, how the rotations that it has started fare. */
import type { ClientId, CredentialId, Environment, Policy, RotationId } from '@keyturn/contract'
import type { Database } from './database.ts'
import { winnerSql } from './policies.ts'

/** Places are kept as whole numbers from 0 to this. */
const PLACES = 2 ** 28

/** Credentials with a place from `from` (included) to `to` (not included), 0 to 1, and a key made at `madeBy` or before (milliseconds). */
interface Sector {
  readonly from: number
  readonly to: number
  readonly madeBy: number
}

export interface DueCredential {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: Environment
  /** 0 to 1. */
  readonly place: number
  readonly createdAt: Date
}

/**
 * The credentials of a policy in some sectors whose keys are old enough and that are in no rotation, the oldest keys first. One whose
 * rotation was rolled back after `rolledBackBefore` is left alone. Indexes credentials_by_policy, keys_current, rotations_by_credential;
 * without `offset 0` the planner expects a third of all credentials in each sector, and reads them all.
 */
const DUE = `
select c.credential_id as "credentialId", c.client_id as "clientId", c.environment, c.place, c.current_since as "createdAt"
from unnest($2::integer[], $3::integer[], $4::timestamptz[]) as s (first, last, made_by)
cross join lateral (
  select * from credentials where policy = $1 and place >= s.first and place < s.last and current_since <= s.made_by
    and (current_since, credential_id) > ($7, $8) offset 0
) c
left join lateral (
  select stage, ended_at from rotations where credential_id = c.credential_id order by opened_at desc, rotation_id desc limit 1
) r on true
cross join lateral (
  select from keys where credential_id = c.credential_id and standing = 'current' and state = 'active' limit 1
) k
where (r.stage is null or r.ended_at is not null) and (r.stage is distinct from 'rolled-back' or r.ended_at <= $5)
order by c.current_since, c.credential_id limit $6`

export async function dueCredentials(
  db: Database,
  input: {
    policy: string
    sectors: readonly Sector[]
    rolledBackBefore: Date
    limit: number
    /** Behind this one. */
    after?: { readonly createdAt: Date; readonly credentialId: CredentialId }
  },
): Promise<DueCredential[]> {
  const rows = await db.query<DueCredential>(DUE, [
    input.policy,
    input.sectors.map(({ from }) => Math.ceil(from * PLACES)),
    input.sectors.map(({ to }) => Math.ceil(to * PLACES)),
    input.sectors.map(({ madeBy }) => new Date(madeBy)),
    input.rolledBackBefore,
    input.limit,
    input.after?.createdAt ?? new Date(0),
    input.after?.credentialId ?? '',
  ])
  return rows.map((row) => ({ ...row, place: row.place / PLACES }))
}

/** How many credentials a policy has. Index credentials_by_policy. */
export async function countCredentials(db: Database, policy: string): Promise<number> {
  const [row] = await db.query<{ count: number }>('select count(*) as count from credentials where policy = $1', [policy])
  return row?.count ?? 0
}

/** The place (0 to 1) of the credential that stands at a rank (0 is the first) of its policy; 1 when there is none. Index credentials_by_policy. */
export async function placeOfRank(db: Database, policy: string, rank: number): Promise<number> {
  const [row] = await db.query<{ place: number }>(
    'select place from credentials where policy = $1 order by place offset $2 limit 1',
    [policy, rank],
  )
  return row === undefined ? 1 : row.place / PLACES
}

export interface PolicyMember {
  /** 0 to 1. */
  readonly place: number
  /** When its newest key was made, in milliseconds of the epoch. */
  readonly createdAt: number
}

const MEMBERS_PAGE = 20_000

/**
 * The credentials that a policy has, if those in the list were all there are; page by page over all credentials. Primary key, and
 * index keys_successor.
 */
export async function policyMembers(db: Database, policies: readonly Policy[], name: string): Promise<PolicyMember[]> {
  const members: PolicyMember[] = []
  let after = ''
  for (;;) {
    const values: unknown[] = [after, MEMBERS_PAGE, name]
    const page = await db.query<{ id: string; place: number; created_at: Date; is_member: boolean }>(
      `select c.credential_id as id, c.place, ${winnerSql(policies, values)} = $3 as is_member,
         coalesce((select k.created_at from keys k where k.credential_id = c.credential_id and k.standing = 'successor'), c.current_since)
           as created_at
       from credentials c where c.credential_id > $1 and c.current_since is not null order by c.credential_id limit $2`,
      values,
    )
    for (const { place, created_at, is_member } of page)
      if (is_member) members.push({ place: place / PLACES, createdAt: created_at.getTime() })
    if (page.length < MEMBERS_PAGE) return members
    after = page.at(-1)?.id ?? ''
  }
}

/** How the rotations of one wave fare. */
export interface WaveState {
  readonly wave: number
  readonly started: number
  /** Neither ended nor held; waiting for an approval counts as running. */
  readonly running: number
  /** Held or rolled back. */
  readonly failed: number
}

const FAILED = `(stage in ('held', 'rolling-back', 'rolled-back') and held_for is distinct from 'approval' and opened_at > $3)`

/** The waves of a cycle that have been begun. Index rotations_by_policy. */
export const waveStates = (db: Database, policy: string, cycle: number, countedFrom: Date): Promise<WaveState[]> =>
  db.query(
    `select wave, count(*) as started, count(*) filter (where ${FAILED}) as failed,
       count(*) filter (where ended_at is null and (stage <> 'held' or held_for = 'approval')) as running
     from rotations where policy_name = $1 and cycle = $2 group by wave order by wave`,
    [policy, cycle, countedFrom],
  )

/** The one that was opened last of those that failed. Index rotations_by_policy. */
export async function lastFailed(
  db: Database,
  policy: string,
  cycle: number,
  countedFrom: Date,
): Promise<{ credentialId: CredentialId; rotationId: RotationId } | undefined> {
  const [row] = await db.query<{ credentialId: CredentialId; rotationId: RotationId }>(
    `select credential_id as "credentialId", rotation_id as "rotationId" from rotations
     where policy_name = $1 and cycle = $2 and ${FAILED} order by opened_at desc, rotation_id desc limit 1`,
    [policy, cycle, countedFrom],
  )
  return row
}

/** How many rotations that a schedule has started are open, and when it started the last one. Indexes rotations_open_by_policy, rotations_started_by_policy. */
export async function scheduleState(db: Database, policy: string): Promise<{ open: number; lastStartAt?: Date }> {
  const [row] = await db.query<{ open: number; last: Date | null }>(
    `select (select count(*) from rotations where policy_name = $1 and cycle is not null and ended_at is null) as open,
       (select max(opened_at) from rotations where policy_name = $1 and cycle is not null) as last`,
    [policy],
  )
  return { open: row?.open ?? 0, ...(row?.last == null ? {} : { lastStartAt: row.last }) }
}
