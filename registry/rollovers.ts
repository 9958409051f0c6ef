/**
 * Fleet rollovers: many keys killed in one transaction, which locks keys in the order of credentials and versions, then claims, and the
 * head of the audit log last, as single changes do (keys.ts).
 */
import {
  type ClientId,
  type CredentialId,
  type Environment,
  formatSelector,
  isEmptySelector,
  type KeyId,
  type RolloverId,
  type Selector,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first, type Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { destroyClaimsOf } from './key-rows.ts'
import { selectorSql } from './selectors.ts'

/** Which credentials a rollover is about. */
export interface RolloverChoice {
  readonly selector: Selector
  /** One credential instead of a selector. */
  readonly credentialId?: CredentialId
  /** Allows a selector that selects everything. */
  readonly all?: boolean
}

export interface NewRollover extends RolloverChoice {
  readonly rolloverId: RolloverId
  readonly reason: string
  /** How many credentials the person expects; with another number nothing happens. */
  readonly expected?: number
  readonly at: Date
  readonly actor: string
}

/** What a rollover of these credentials would do. */
export interface RolloverPreview {
  readonly credentials: number
  /** How many keys would die. */
  readonly keys: number
  readonly clients: number
  readonly environments: Readonly<Partial<Record<Environment, number>>>
  /** Credentials for which a rollover is under way: nothing of theirs dies again. */
  readonly joined: number
}

export interface OpenedRollover {
  readonly selected: number
  readonly killed: number
  readonly keyIds: readonly KeyId[]
}

/** How many keys one statement changes: none takes longer than a process allows a statement. */
const AT_ONCE = 5_000

/** A rollover that issues keys still: another one joins it for the credentials of both. */
const ISSUING = `o.ended_at is null and o.stage in ('killing', 'issuing', 'paused')`
/** Keys of the credential `c` that are accepted, or that a running roll-back could make so. */
const LIVE = `(k.state in ('pre-activation', 'active', 'suspended') or (k.state = 'deactivated' and k.key_id = r.old_key_id))`

/** The chosen credentials `s`, each with whether it is joined. By selector: see selectorSql; indexes rollovers_under_way, rollover_members_pkey. */
function chosenSql({ selector, credentialId }: RolloverChoice, values: unknown[]): string {
  const chosen = credentialId === undefined ? selectorSql(selector, values) : `c.credential_id = $${values.push(credentialId)}`
  return `select c.credential_id, c.client_id, c.environment,
    c.credential_id in (select m.credential_id from rollover_members m join rollovers o using (rollover_id) where ${ISSUING}) as joined
  from credentials c where ${chosen}`
}

/** The keys `k` that die. Indexes keys_credential_id_version_key, rotations_open. */
const dyingSql = (chosen: string): string => `(${chosen}) s join keys k using (credential_id)
  left join rotations r on r.credential_id = s.credential_id and r.ended_at is null
  where not s.joined and ${LIVE}`

/** A credential whose last key is dead already, and that has no new one. */
const BEREFT = `(select k.state from keys k where k.credential_id = s.credential_id order by k.version desc limit 1) = 'compromised'`

function refuseEverything({ selector, credentialId, all = false }: RolloverChoice): void {
  if (all || credentialId !== undefined || !isEmptySelector(selector)) return
  throw new RegistryError('empty-selector', 'an empty selector selects every credential there is: say all when that is meant')
}

/** @throws RegistryError empty-selector */
export async function previewRollover(db: Database, choice: RolloverChoice): Promise<RolloverPreview> {
  refuseEverything(choice)
  const values: unknown[] = []
  const chosen = chosenSql(choice, values)
  const rows = await db.query<{
    environment: Environment
    credentials: number
    joined: number
    keys: number
    clients: ClientId[]
  }>(
    `with s as (${chosen}), dying as (select s.credential_id, count(*) as keys from ${dyingSql('select * from s')} group by 1)
     select s.environment, count(*) as credentials, count(*) filter (where s.joined) as joined,
       coalesce(sum(d.keys), 0)::bigint as keys, array_agg(distinct s.client_id) as clients
     from s left join dying d using (credential_id) where s.joined or d.keys > 0 or ${BEREFT} group by 1`,
    values,
  )
  const sum = (of: (row: (typeof rows)[number]) => number): number => rows.reduce((total, row) => total + of(row), 0)
  return {
    credentials: sum(({ credentials }) => credentials),
    keys: sum(({ keys }) => keys),
    clients: new Set(rows.flatMap(({ clients }) => clients)).size,
    environments: Object.fromEntries(rows.map(({ environment, credentials }) => [environment, credentials])),
    joined: sum(({ joined }) => joined),
  }
}

/**
 * Kills the keys of the chosen credentials, all or none of them, and puts the rollover on record. The same id again: what there is.
 * @throws RegistryError empty-selector, unknown-credential when nothing is chosen, count-mismatch
 */
export async function openRollover(db: Database, input: NewRollover): Promise<OpenedRollover> {
  refuseEverything(input)
  return db.tx(async (tx) => {
    // One at a time: each sees what the one before it has killed.
    await tx.query(`select pg_advisory_xact_lock(hashtext('keyturn rollover'))`)
    const known = await first<OpenedRollover>(tx, KNOWN, [input.rolloverId])
    if (known !== undefined) return known
    const dying = await lockDying(tx, input)
    const keyIds = dying.flatMap((each) => each.keyIds)
    const { rolloverId, selector, credentialId, reason, actor, at } = input
    const selected = await insertMembers(tx, input, dying)
    if (selected === 0) throw new RegistryError('unknown-credential', 'no credential with a key is selected: nothing was done')
    if (input.expected !== undefined && input.expected !== selected) {
      const what = `${selected} credentials are selected, not ${input.expected}: nothing was done`
      throw new RegistryError('count-mismatch', `${what}. Look at them again`)
    }
    await tx.query(
      'insert into rollovers (rollover_id, selector, credential_id, reason, actor, killed, opened_at) values ($1, $2, $3, $4, $5, $6, $7)',
      [rolloverId, selector, credentialId, reason, actor, keyIds.length, at],
    )
    for (let from = 0; from < keyIds.length; from += AT_ONCE) {
      await destroyClaimsOf(tx, keyIds.slice(from, from + AT_ONCE), at)
    }
    await appendAudit(tx, {
      at,
      actor,
      action: 'rollover.opened',
      subject: rolloverId,
      detail: { reason, trigger: 'emergency', selector: credentialId ?? formatSelector(selector), selected, keys: keyIds.length },
    })
    for (let from = 0; from < keyIds.length; from += AT_ONCE) await kill(tx, input, keyIds.slice(from, from + AT_ONCE))
    return { selected, killed: keyIds.length, keyIds }
  })
}

const KNOWN = `
select o.killed, (select count(*) from rollover_members m where m.rollover_id = o.rollover_id) as selected,
  array(select unnest(m.key_ids) from rollover_members m where m.rollover_id = o.rollover_id) as "keyIds"
from rollovers o where o.rollover_id = $1`

interface Dying {
  readonly credentialId: string
  readonly keyIds: KeyId[]
}

/** Locks the keys that are to die. Whoever issues a new one meanwhile has locked an old one: so it is looked for anew until there is none. */
async function lockDying(tx: Tx, choice: RolloverChoice): Promise<Dying[]> {
  const dying = new Map<string, Dying>()
  const held: KeyId[] = []
  for (;;) {
    const values: unknown[] = [held]
    const { rows } = await tx.query<{ credential_id: string; key_id: KeyId }>(
      `select k.credential_id, k.key_id from ${dyingSql(chosenSql(choice, values))} and k.key_id <> all ($1)
       order by k.credential_id, k.version for no key update of k`,
      values,
    )
    if (rows.length === 0) return [...dying.values()]
    for (const { credential_id: credentialId, key_id } of rows) {
      held.push(key_id)
      const one: Dying = dying.get(credentialId) ?? { credentialId, keyIds: [] }
      one.keyIds.push(key_id)
      dying.set(credentialId, one)
    }
  }
}

/** @returns how many */
async function insertMembers(tx: Tx, input: NewRollover, dying: readonly Dying[]): Promise<number> {
  const killed = dying.map(({ credentialId }) => credentialId)
  await tx.query(
    `insert into rollover_members (rollover_id, credential_id, joined, key_ids)
     select $1, m.credential_id, false, string_to_array(m.key_ids, ' ') from unnest($2::text[], $3::text[]) m (credential_id, key_ids)`,
    [input.rolloverId, killed, dying.map(({ keyIds }) => keyIds.join(' '))],
  )
  const values: unknown[] = [input.rolloverId, killed]
  const { rowCount } = await tx.query(
    `insert into rollover_members (rollover_id, credential_id, joined, key_ids)
     select $1, s.credential_id, s.joined, '{}' from (${chosenSql(input, values)}) s
     where s.credential_id <> all ($2) and (s.joined or ${BEREFT})`,
    values,
  )
  return killed.length + (rowCount ?? 0)
}

/** Primary key. */
async function kill(tx: Tx, { rolloverId, reason, at, actor }: NewRollover, keyIds: readonly KeyId[]): Promise<void> {
  await tx.query(
    `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash)
     select 0, $2, $3, 'key.compromised', key_id, revision + 1,
       jsonb_build_object('from', state, 'to', 'compromised', 'reason', $4::text, 'rolloverId', $5::text), '', ''
     from keys where key_id = any($1) order by credential_id, version`,
    [keyIds, at, actor, reason, rolloverId],
  )
  await tx.query(
    `update keys set state = 'compromised', standing = 'retired', event = 'keyturn.key.compromised', revision = revision + 1 where key_id = any($1)`,
    [keyIds],
  )
}
