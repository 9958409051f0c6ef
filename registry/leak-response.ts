/** What a leak needs now, and the part of it that can't wait: a key that must die is compromised in the same transaction. */
import {
  type ClientId,
  type CredentialId,
  cut,
  type Environment,
  type KeyId,
  type KeyState,
  type LeakId,
  type LeakMatch,
  type LeakResponse,
  leakWorkflowId,
  type Policy,
  type Receipt,
  type RotationId,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first, type Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { compromiseKeyIn, killNewKeyIn } from './keys.ts'
import { USAGE_OF } from './leaks.ts'
import { type LeakPlaybook, type LeakSettings, leakPlaybook } from './playbooks.ts'
import { linkLeak } from './rotations.ts'

export interface LeakPlan {
  /** Whether a rotation has to be opened, or the one that is open has to hear of it. */
  readonly rotationNeeded: boolean
  /** Whether the key dies without delay; it is dead by now. */
  readonly atOnce: boolean
  readonly overlapMs: number
  /** Keys whose change has to be published; the leaked one is the first. */
  readonly changed: readonly KeyId[]
  readonly keyId: KeyId
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: Environment
  readonly reason: string
  readonly actor: string
}

interface SqlCase {
  readonly status: string
  readonly matched: LeakMatch
  readonly response: LeakResponse | null
  readonly overlap_ms: number | null
  readonly contained_at: Date | null
  readonly key_id: KeyId
  readonly state: KeyState
  readonly key_rotation_id: RotationId | null
  readonly credential_id: CredentialId
  readonly client_id: ClientId
  readonly environment: Environment
  readonly scopes: string[]
  readonly policy: Policy | null
  readonly source: string
  readonly url: string
}

const DEAD: readonly KeyState[] = ['deactivated', 'compromised', 'destroyed']

/** Primary keys; index leak_sightings_pkey. */
const LOCK_CASE = `
select l.status, l.matched, l.response, l.overlap_ms, l.contained_at, k.key_id, k.state, k.rotation_id as key_rotation_id,
  c.credential_id, c.client_id, c.environment, c.scopes, p.document as policy, s.source, s.url
from leaks l join keys k using (key_id) join credentials c using (credential_id) left join policies p on p.name = c.policy
cross join lateral (select source, url from leak_sightings s where s.leak_id = l.leak_id order by first_at limit 1) s
where l.leak_id = $1 for no key update of l`

/**
 * Looks at a leak as things stand, and compromises its key where that must not wait: by the playbook, when it is the new key of a
 * running rotation, or when no gateway accepts it any more anyway. Any number of times; each finds what is left to do.
 * @param force whether its time is over, so that it dies whatever the playbook says
 * @param begun whether a workflow answers the leak; until one does it stays open, for the sweep to find
 */
export async function containLeak(
  db: Database,
  { leakId, at, settings, force, begun }: { leakId: LeakId; at: Date; settings: LeakSettings; force: boolean; begun: boolean },
): Promise<LeakPlan> {
  return db.tx(async (tx) => {
    const leak = await first<SqlCase>(tx, LOCK_CASE, [leakId])
    if (leak === undefined) throw new RegistryError('unknown-leak', `there is no leak ${leakId} of one of our keys`)
    // Index rotations_open.
    const rotation = await first<{ rotation_id: RotationId; old_key_id: KeyId }>(
      tx,
      'select rotation_id, old_key_id from rotations where credential_id = $1 and ended_at is null',
      [leak.credential_id],
    )
    const isOld = rotation?.old_key_id === leak.key_id
    const isNew = rotation !== undefined && rotation.rotation_id === leak.key_rotation_id
    const playbook = playbookOf(leak, { isOld, isNew }, settings)
    const by = { at, actor: leakWorkflowId(leakId), reason: reasonOf(leakId, leak) }
    const atOnce = force || isNew || playbook.response === 'at-once' || DEAD.includes(leak.state)
    const contained = atOnce && (await kill(tx, leakId, leak, isNew ? rotation?.rotation_id : undefined, by))
    const involved = isOld || isNew
    if (involved && rotation !== undefined) await linkLeak(tx, leakId, rotation.rotation_id)
    const rotationNeeded = leak.status !== 'closed' && (involved || (await needsRotation(tx, leak, rotation)))
    const overlapMs = playbook.response === 'overlap' ? playbook.overlapMs : undefined
    await tx.query(
      `update leaks set response = $2, overlap_ms = $3, status = case when $4 and status = 'open' then 'responding' else status end
       where leak_id = $1`,
      [leakId, playbook.response, overlapMs, begun],
    )
    return {
      rotationNeeded,
      atOnce,
      overlapMs: overlapMs ?? 0,
      changed: !contained ? [] : isNew && rotation !== undefined ? [leak.key_id, rotation.old_key_id] : [leak.key_id],
      keyId: leak.key_id,
      credentialId: leak.credential_id,
      clientId: leak.client_id,
      environment: leak.environment,
      reason: by.reason,
      actor: by.actor,
    }
  })
}

/** Decided once; the new key of a rotation has no overlap of its own, and a dead key needs nothing but the record. */
function playbookOf(
  leak: SqlCase,
  { isOld, isNew }: { isOld: boolean; isNew: boolean },
  settings: LeakSettings,
): LeakPlaybook | { readonly response: 'none' } {
  if (leak.response === 'overlap') return { response: 'overlap', overlapMs: leak.overlap_ms ?? 0 }
  if (leak.response !== null) return { response: leak.response }
  if (leak.state === 'deactivated' && !isOld) return { response: 'none' }
  if (leak.state === 'compromised' || leak.state === 'destroyed') return { response: 'none' }
  return isNew || leak.state === 'deactivated' ? { response: 'at-once' } : leakPlaybook(leak.scopes, leak.policy, settings)
}

/** @returns whether the key is dead because of this leak: now, or since an earlier look */
async function kill(
  tx: Tx,
  leakId: LeakId,
  leak: SqlCase,
  newKeyOf: RotationId | undefined,
  by: { readonly at: Date; readonly actor: string; readonly reason: string },
): Promise<boolean> {
  if (leak.state === 'compromised' || leak.state === 'destroyed') return leak.contained_at !== null
  if (newKeyOf === undefined) await compromiseKeyIn(tx, { ...by, keyId: leak.key_id })
  else await killNewKeyIn(tx, { ...by, keyId: leak.key_id, rotationId: newKeyOf })
  await tx.query('update leaks set contained_at = $2 where leak_id = $1', [leakId, by.at])
  return true
}

/** A key that is still accepted has to be replaced, and so has one that was when it leaked, when nothing has taken its place. Index keys_current. */
async function needsRotation(tx: Tx, leak: SqlCase, rotation: object | undefined): Promise<boolean> {
  if (rotation !== undefined || leak.matched === 'dead') return false
  const current = await first<{ key_id: KeyId }>(
    tx,
    `select key_id from keys where credential_id = $1 and standing = 'current'`,
    [leak.credential_id],
  )
  return current === undefined || current.key_id === leak.key_id
}

const LONGEST_REASON = 400

const reasonOf = (leakId: LeakId, { source, url }: SqlCase): string =>
  cut(`${leakId}: reported by ${source}${url === '' ? '' : ` at ${url}`}`, LONGEST_REASON)

/** Notes which gateways refuse the key; a later, fuller receipt takes the place of an earlier one. Primary key. */
export async function noteLeakReceipt(db: Database, leakId: LeakId, receipt: Receipt): Promise<void> {
  await db.query('update leaks set receipt = $2 where leak_id = $1', [leakId, JSON.stringify(receipt)])
}

/**
 * Closes a leak with the key's use as it is known now.
 * @param patient whether to leave it open while usage is not known up to when the last gateway refused the key
 * @returns whether it is closed
 */
export async function closeLeak(
  db: Database,
  { leakId, at, patient }: { leakId: LeakId; at: Date; patient: boolean },
): Promise<boolean> {
  return db.tx(async (tx) => {
    const leak = await first<{ status: string; key_id: KeyId; known: boolean }>(tx, CLOSABLE, [leakId])
    if (leak === undefined) throw new RegistryError('unknown-leak', `there is no leak ${leakId} of one of our keys`)
    if (leak.status === 'closed') return true
    if (patient && !leak.known) return false
    await tx.query(
      `update leaks set status = 'closed', closed_at = $2, usage_after = ${USAGE_OF('leaks.key_id')} where leak_id = $1`,
      [leakId, at],
    )
    const detail = { keyId: leak.key_id }
    await appendAudit(tx, { at, actor: leakWorkflowId(leakId), action: 'leak.closed', subject: leakId, detail })
    return true
  })
}

/** Usage is known when it is complete through the last gateway's word that it refuses the key. Primary keys. */
const CLOSABLE = `
select l.status, l.key_id, coalesce(u.complete_through >= coalesce(
  (select max((g ->> 'appliedAt')::timestamptz) from jsonb_array_elements(l.receipt -> 'gateways') g),
  (select max((g ->> 'appliedAt')::timestamptz) from receipts r, jsonb_array_elements(r.gateways) g
   where r.rotation_id = l.rotation_id and r.key_id = l.key_id and r.event = 'keyturn.key.compromised'),
  l.contained_at), false) as known
from leaks l cross join usage_state u where l.leak_id = $1 for no key update of l`
