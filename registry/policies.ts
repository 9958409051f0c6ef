/**
 * Policies, and which of them each credential has. A change re-assigns the credentials that it touches in its own transaction,
 * under a lock that also whoever makes a credential takes: no credential is left with a policy that it should not have.
 */
import { isDeepStrictEqual } from 'node:util'
import {
  byPrecedence,
  DEFAULT_POLICY,
  MOST_POLICIES,
  type Policy,
  type PolicyTerms,
  type RotationPolicy,
  type Selectable,
  selects,
  termsOf,
} from '@keyturn/contract'
import { appendAudit, type NewAuditEntry } from './audit.ts'
import { type Database, first, type Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { selectorSql } from './selectors.ts'

export interface StoredPolicy {
  readonly name: string
  readonly revision: number
  readonly policy: Policy
  readonly terms: PolicyTerms
  readonly changedAt: Date
  readonly changedBy: string
  /** Nothing is started until a person lets it go on. */
  readonly stopped?: { readonly at: Date; readonly reason: string }
  /** Rotations that were opened before then do not count against a wave. */
  readonly countedFrom: Date
}

interface SqlPolicy {
  name: string
  position: number
  revision: number
  document: Policy
  changed_at: Date
  changed_by: string
  stopped_at: Date | null
  stopped_reason: string | null
  counted_from: Date
}

const toPolicy = (sql: SqlPolicy): StoredPolicy => ({
  name: sql.name,
  revision: sql.revision,
  policy: sql.document,
  terms: termsOf(sql.document),
  changedAt: sql.changed_at,
  changedBy: sql.changed_by,
  countedFrom: sql.counted_from,
  ...(sql.stopped_at === null ? {} : { stopped: { at: sql.stopped_at, reason: sql.stopped_reason ?? '' } }),
})

const ALL = 'select * from policies order by position'

/** In their order. */
export const listPolicies = async (db: Database): Promise<StoredPolicy[]> => (await db.query<SqlPolicy>(ALL)).map(toPolicy)

/** Primary key. */
export async function getPolicy(db: Database, name: string): Promise<StoredPolicy | undefined> {
  const [row] = await db.query<SqlPolicy>('select * from policies where name = $1', [name])
  return row === undefined ? undefined : toPolicy(row)
}

/** How many credentials each policy has. Reads the whole index credentials_by_policy. */
export async function countByPolicy(sql: Database | Tx): Promise<Map<string, number>> {
  const text = 'select policy as name, count(*) as count from credentials where policy is not null group by policy'
  const rows = 'pool' in sql ? await sql.query<{ name: string; count: number }>(text) : (await sql.query(text)).rows
  return new Map(rows.map(({ name, count }: { name: string; count: number }) => [name, count]))
}

/** The policy of a credential. Primary keys. */
export async function policyOfCredential(db: Database, credentialId: string): Promise<StoredPolicy | undefined> {
  const [row] = await db.query<SqlPolicy>(
    'select p.* from policies p join credentials c on c.policy = p.name where c.credential_id = $1',
    [credentialId],
  )
  return row === undefined ? undefined : toPolicy(row)
}

/** How a rotation of a credential runs when nobody says otherwise: as its policy has it, else by default. */
export const rotationPolicyOf = async (db: Database, credentialId: string): Promise<RotationPolicy> =>
  (await policyOfCredential(db, credentialId))?.terms.rotation ?? DEFAULT_POLICY

/** Any number of transactions may make credentials at once; while policies change, none does. */
const LOCK = 7_041_978

/** The policy that a new credential gets; policies stay as they are until the transaction ends. */
export const policyForNew = async (tx: Tx, credential: Selectable): Promise<PolicyTerms | undefined> =>
  (await policiesForNew(tx))(credential)

/** The same for many. */
export async function policiesForNew(tx: Tx): Promise<(credential: Selectable) => PolicyTerms | undefined> {
  await tx.query('select pg_advisory_xact_lock_shared($1)', [LOCK])
  const { rows } = await tx.query<SqlPolicy>(ALL)
  const policies = byPrecedence(rows.map(({ document }) => document))
  return (credential) => {
    const winner = policies.find(({ select = {} }) => selects(select, credential))
    return winner === undefined ? undefined : termsOf(winner)
  }
}

export interface PolicyChange {
  readonly name: string
  readonly change: 'created' | 'changed' | 'unchanged' | 'removed'
  readonly before?: Policy
  readonly after?: Policy
  /** How many credentials it has now; of a removed one: had. */
  readonly credentials: number
}

export interface ApplyPolicies {
  /** Sound ones; `checkPolicy` says which are. */
  readonly policies: readonly Policy[]
  /** `file`: these come first, in this order. `keep`: what is there keeps its place, what is new comes last. */
  readonly order: 'file' | 'keep'
  /** Removes those that are not among them. */
  readonly prune: boolean
  /** Answers what would change, and changes nothing. */
  readonly dryRun?: boolean
  readonly at: Date
  readonly actor: string
}

/** Carries the answer of a dry run out of the transaction that is rolled back. */
class DryRun extends Error {
  readonly changes: PolicyChange[]
  constructor(changes: PolicyChange[]) {
    super('a dry run changes nothing')
    this.changes = changes
  }
}

/**
 * Makes policies what they should be, all of them or none.
 * @throws RegistryError invalid-policy when there would be too many
 */
export async function applyPolicies(db: Database, input: ApplyPolicies): Promise<PolicyChange[]> {
  try {
    return await db.tx(async (tx) => {
      const changes = await apply(tx, input)
      if (input.dryRun === true) throw new DryRun(changes)
      return changes
    })
  } catch (error) {
    if (error instanceof DryRun) return error.changes
    throw error
  }
}

/** @throws RegistryError unknown-policy */
export async function removePolicy(db: Database, input: { name: string; at: Date; actor: string }): Promise<PolicyChange> {
  return db.tx(async (tx) => {
    const before = await lockPolicies(tx)
    if (!before.some(({ name }) => name === input.name)) throw unknownPolicy(input.name)
    const policies = before.filter(({ name }) => name !== input.name).map(({ document }) => document)
    const changes = await change(tx, before, policies, input)
    const removed = changes.find(({ name }) => name === input.name)
    if (removed === undefined) throw new Error('the removed policy is among the changes')
    return removed
  })
}

async function apply(tx: Tx, { policies, order, prune, ...by }: ApplyPolicies): Promise<PolicyChange[]> {
  const before = await lockPolicies(tx)
  const given = new Map(policies.map((policy) => [policy.name, policy]))
  const kept = before.filter(({ name }) => !prune || given.has(name)).map(({ document }) => given.get(document.name) ?? document)
  const fresh = policies.filter(({ name }) => !before.some((old) => old.name === name))
  const others = kept.filter(({ name }) => !given.has(name))
  const after = order === 'file' ? [...policies, ...others] : [...kept, ...fresh]
  if (after.length > MOST_POLICIES)
    throw new RegistryError('invalid-policy', `there can be ${MOST_POLICIES} policies at most; these would be ${after.length}`)
  const changes = await change(tx, before, after, by)
  // Those that were not asked about are no news.
  return changes.filter(({ name, change }) => given.has(name) || change !== 'unchanged')
}

async function lockPolicies(tx: Tx): Promise<SqlPolicy[]> {
  await tx.query('select pg_advisory_xact_lock($1)', [LOCK])
  return (await tx.query<SqlPolicy>(ALL)).rows
}

async function change(
  tx: Tx,
  before: readonly SqlPolicy[],
  after: readonly Policy[],
  by: { at: Date; actor: string },
): Promise<PolicyChange[]> {
  const had = await countByPolicy(tx)
  const old = new Map(before.map((row) => [row.name, row]))
  const gone = before.filter(({ name }) => !after.some((policy) => policy.name === name))
  const changed = after.filter((policy) => !isDeepStrictEqual(old.get(policy.name)?.document, policy))
  const stayed = (names: readonly string[]): string[] =>
    names.filter((name) => !gone.some((row) => row.name === name) && old.has(name))
  const reordered = !isDeepStrictEqual(stayed(before.map(({ name }) => name)), stayed(after.map(({ name }) => name)))

  const entries: NewAuditEntry[] = []
  for (const [position, policy] of after.entries()) {
    if (changed.includes(policy)) entries.push(await store(tx, policy, position, by))
    else await tx.query('update policies set position = $2 where name = $1 and position <> $2', [policy.name, position])
  }
  await assign(tx, after, [...changed, ...gone.map(({ document }) => document)], reordered)
  for (const row of gone) entries.push(await remove(tx, row, by))
  const order = after.map(({ name }) => name)
  if (reordered) entries.push({ ...by, action: 'policies.ordered', subject: 'policies', detail: { order } })
  // Last, as everywhere: whoever opens a rotation holds its credential's row and waits for the head of the audit log.
  for (const entry of entries) await appendAudit(tx, entry)

  const have = await countByPolicy(tx)
  return [
    ...after.map((policy): PolicyChange => {
      const was = old.get(policy.name)?.document
      const kind = !changed.includes(policy) ? 'unchanged' : was === undefined ? 'created' : 'changed'
      const credentials = have.get(policy.name) ?? 0
      return { name: policy.name, change: kind, after: policy, credentials, ...(was === undefined ? {} : { before: was }) }
    }),
    ...gone.map(({ name, document }): PolicyChange => {
      return { name, change: 'removed', before: document, credentials: had.get(name) ?? 0 }
    }),
  ]
}

async function store(
  tx: Tx,
  policy: Policy,
  position: number,
  { at, actor }: { at: Date; actor: string },
): Promise<NewAuditEntry> {
  const revision = await addVersion(tx, { name: policy.name, document: policy, at, actor })
  // A stopped policy that has been changed may go on: a person has looked at it.
  await tx.query(
    `insert into policies (name, position, revision, document, changed_at, changed_by, counted_from) values ($1, $2, $3, $4, $5, $6, $5)
     on conflict (name) do update set position = excluded.position, revision = excluded.revision, document = excluded.document,
       changed_at = excluded.changed_at, changed_by = excluded.changed_by, counted_from = excluded.counted_from,
       stopped_at = null, stopped_reason = null`,
    [policy.name, position, revision, JSON.stringify(policy), at, actor],
  )
  return { at, actor, action: 'policy.set', subject: subjectOf(policy.name), revision, detail: { policy } }
}

async function remove(tx: Tx, { name }: SqlPolicy, { at, actor }: { at: Date; actor: string }): Promise<NewAuditEntry> {
  const revision = await addVersion(tx, { name, at, actor })
  await tx.query('delete from policies where name = $1', [name])
  return { at, actor, action: 'policy.removed', subject: subjectOf(name), revision }
}

const subjectOf = (name: string): string => `policy:${name}`

/** A name that comes back goes on counting. Primary key. @returns the revision */
async function addVersion(
  tx: Tx,
  { name, document, at, actor }: { name: string; document?: Policy; at: Date; actor: string },
): Promise<number> {
  const row = await first<{ revision: number }>(
    tx,
    `insert into policy_versions (name, revision, document, at, actor)
     select $1, coalesce(max(revision), 0) + 1, $2, $3, $4 from policy_versions where name = $1 returning revision`,
    [name, document === undefined ? null : JSON.stringify(document), at, actor],
  )
  if (row === undefined) throw new Error('insert returned no row')
  return row.revision
}

/** The name of the policy that wins for the credential `c`, as SQL. */
export function winnerSql(policies: readonly Policy[], values: unknown[]): string {
  const cases = byPrecedence(policies).map(
    ({ name, select }) => `when ${select === undefined ? 'true' : selectorSql(select, values)} then $${values.push(name)}::text`,
  )
  return cases.length === 0 ? 'null::text' : `case ${cases.join(' ')} end`
}

/** Which policies have the credentials that one selects, if those in the list were all there are. Looks at every credential once. */
export async function winnersOf(
  db: Database,
  policies: readonly Policy[],
  { select }: Policy,
): Promise<{ policy: string; credentials: number }[]> {
  const values: unknown[] = []
  const winner = winnerSql(policies, values)
  const selected = select === undefined ? 'true' : selectorSql(select, values)
  return db.query(
    `select w.policy, count(*) as credentials from (select ${winner} as policy from credentials c where ${selected}) w group by w.policy order by 1`,
    values,
  )
}

/** Gives the credentials that a change can touch their policy. Looks at every credential once: this may take seconds. */
async function assign(tx: Tx, policies: readonly Policy[], touched: readonly Policy[], all: boolean): Promise<void> {
  if (touched.length === 0 && !all) return
  await tx.query(`set local statement_timeout = '5min'`)
  const values: unknown[] = []
  const conditions = all ? ['true'] : touched.map(({ select }) => (select === undefined ? 'true' : selectorSql(select, values)))
  if (!all) conditions.push(`c.policy = any($${values.push(touched.map(({ name }) => name))})`)
  const winner = winnerSql(policies, values)
  await tx.query(
    `update credentials set policy = w.policy
     from (select c.credential_id, ${winner} as policy from credentials c where ${conditions.join(' or ')}) w
     where w.credential_id = credentials.credential_id and credentials.policy is distinct from w.policy`,
    values,
  )
}

/**
 * Stops a policy: nothing more is started. People are told in the same transaction, so that it is not stopped in silence.
 * @returns false when it has been stopped before, or is gone
 */
export async function stopPolicy(
  db: Database,
  { name, reason, at }: { name: string; reason: string; at: Date },
  tell: () => Promise<void>,
): Promise<boolean> {
  return db.tx(async (tx) => {
    const { rowCount } = await tx.query(
      'update policies set stopped_at = $2, stopped_reason = $3 where name = $1 and stopped_at is null',
      [name, at, reason],
    )
    if (rowCount === 0) return false
    await appendAudit(tx, { at, actor: 'keyturn', action: 'policy.stopped', subject: subjectOf(name), detail: { reason } })
    await tell()
    return true
  })
}

/** Lets a stopped policy go on. What has gone wrong before does not count any more. @throws RegistryError unknown-policy, wrong-stage */
export async function resumePolicy(
  db: Database,
  { name, reason, at, actor }: { name: string; reason: string; at: Date; actor: string },
): Promise<void> {
  await db.tx(async (tx) => {
    const row = await first<SqlPolicy>(tx, 'select * from policies where name = $1 for no key update', [name])
    if (row === undefined) throw unknownPolicy(name)
    if (row.stopped_at === null) throw new RegistryError('wrong-stage', `the policy ${name} is not stopped`)
    await tx.query('update policies set stopped_at = null, stopped_reason = null, counted_from = $2 where name = $1', [name, at])
    await appendAudit(tx, { at, actor, action: 'policy.resumed', subject: subjectOf(name), detail: { reason } })
  })
}

const unknownPolicy = (name: string): RegistryError => new RegistryError('unknown-policy', `there is no policy ${name}`)
