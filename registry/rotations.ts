import type {
  ClientId,
  CredentialId,
  Environment,
  HeldFor,
  KeyId,
  LeakId,
  LeakOrder,
  Receipt,
  RotationId,
  RotationPolicy,
  RotationStage,
  ScheduledAs,
  TimelineEntry,
  Trigger,
} from '@keyturn/contract'
import { graceTerms, isTerminal } from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first, type Tx } from './database.ts'
import { RegistryError } from './errors.ts'
import { storable } from './storable.ts'

/** The channel on which the database says that a rotation has changed; the payload is its id. */
export const ROTATION_CHANNEL = 'keyturn_rotation'

export interface RotationSummary {
  readonly rotationId: RotationId
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: Environment
  readonly trigger: Trigger
  readonly reason: string
  readonly stage: RotationStage
  readonly policy: RotationPolicy
  readonly oldKeyId?: KeyId
  readonly newKeyId?: KeyId
  readonly deadline?: Date
  readonly heldFor?: HeldFor
  readonly unconfirmed: readonly string[]
  readonly openedAt: Date
  readonly endedAt?: Date
}

export interface Rotation extends RotationSummary {
  readonly timeline: readonly TimelineEntry[]
  readonly receipts: readonly Receipt[]
}

export interface SqlRotation {
  rotation_id: RotationId
  credential_id: CredentialId
  client_id: ClientId
  trigger: Trigger
  reason: string
  stage: RotationStage
  policy: RotationPolicy
  old_key_id: KeyId | null
  new_key_id: KeyId | null
  deadline: Date | null
  held_for: HeldFor | null
  unconfirmed: string[]
  opened_at: Date
  ended_at: Date | null
}

interface SqlSummary extends SqlRotation {
  readonly environment: Environment
}

/** The statement that reads rotations; what is asked for comes after it. */
const SELECT_ROTATIONS = 'select r.*, c.environment from rotations r join credentials c on c.credential_id = r.credential_id'

const toSummary = (sql: SqlSummary): RotationSummary => ({
  rotationId: sql.rotation_id,
  credentialId: sql.credential_id,
  clientId: sql.client_id,
  environment: sql.environment,
  trigger: sql.trigger,
  reason: sql.reason,
  stage: sql.stage,
  policy: sql.policy,
  unconfirmed: sql.unconfirmed,
  openedAt: sql.opened_at,
  ...(sql.old_key_id === null ? {} : { oldKeyId: sql.old_key_id }),
  ...(sql.new_key_id === null ? {} : { newKeyId: sql.new_key_id }),
  ...(sql.deadline === null ? {} : { deadline: sql.deadline }),
  ...(sql.held_for === null ? {} : { heldFor: sql.held_for }),
  ...(sql.ended_at === null ? {} : { endedAt: sql.ended_at }),
})

/** Primary key; locked until the transaction ends. */
export async function lockRotation(tx: Tx, rotationId: RotationId): Promise<SqlRotation> {
  const row = await first<SqlRotation>(tx, 'select * from rotations where rotation_id = $1 for no key update', [rotationId])
  if (row === undefined) throw new RegistryError('unknown-rotation', `there is no rotation ${rotationId}`)
  return row
}

/**
 * The same, of a rotation that goes on.
 * @throws RegistryError illegal-transition when it has ended: this is a late try of something that is done
 */
export async function lockOpenRotation(tx: Tx, rotationId: RotationId): Promise<SqlRotation> {
  const rotation = await lockRotation(tx, rotationId)
  refuseEnded(rotation)
  return rotation
}

export function refuseEnded(rotation: SqlRotation): void {
  if (rotation.ended_at === null) return
  throw new RegistryError('illegal-transition', `rotation ${rotation.rotation_id} has ended: ${rotation.stage}`)
}

/**
 * Opens a rotation of a credential's current key; a second call with the same id answers with what there is. An emergency and a
 * leak find the key dead already where it was killed first: they open with the last key that the credential had.
 * @throws RegistryError unknown-credential, illegal-transition when there is no key to rotate, or a fleet rollover finds a
 *   key that has been issued since, wrong-stage while another rotation of the credential is open (G6)
 */
export async function openRotation(
  db: Database,
  input: {
    rotationId: RotationId
    credentialId: CredentialId
    trigger: Trigger
    reason: string
    policy: RotationPolicy
    scheduled?: ScheduledAs
    leak?: LeakOrder
    at: Date
    actor: string
  },
): Promise<RotationSummary> {
  return db.tx(async (tx) => {
    // Whoever opens a rotation of this credential at the same time waits here.
    await tx.query('select from credentials where credential_id = $1 for no key update', [input.credentialId])
    const known = await first<SqlSummary>(tx, `${SELECT_ROTATIONS} where r.rotation_id = $1`, [input.rotationId])
    const ofRollover = (await first(tx, OF_ROLLOVER, [input.rotationId])) !== undefined
    if (known !== undefined && ofRollover) refuseEnded(known)
    if (known !== undefined) return toSummary(known)
    const other = await first<{ rotation_id: RotationId }>(tx, OPEN_ROTATION, [input.credentialId])
    if (other !== undefined)
      throw new RegistryError('wrong-stage', `credential ${input.credentialId} is in rotation ${other.rotation_id} already`)
    const credential = await first<{ client_id: ClientId; environment: Environment }>(
      tx,
      'select client_id, environment from credentials where credential_id = $1',
      [input.credentialId],
    )
    if (credential === undefined) throw new RegistryError('unknown-credential', `there is no credential ${input.credentialId}`)
    const oldKey = await keyToRotate(tx, input.credentialId, input.trigger)
    if (oldKey === undefined)
      throw new RegistryError('illegal-transition', `credential ${input.credentialId} has no key to rotate`)
    if (ofRollover && oldKey.standing === 'current')
      throw new RegistryError('illegal-transition', `credential ${input.credentialId} has its new key already`)
    if (input.leak !== undefined && input.leak.keyId !== oldKey.key_id)
      throw new RegistryError(
        'illegal-transition',
        `key ${input.leak.keyId} has been replaced already: there is nothing to rotate`,
      )
    const row = await first<SqlRotation>(
      tx,
      `insert into rotations (rotation_id, credential_id, client_id, trigger, reason, policy, old_key_id, opened_at, policy_name, cycle, wave)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning *`,
      [
        input.rotationId,
        input.credentialId,
        credential.client_id,
        input.trigger,
        input.reason,
        JSON.stringify(input.policy),
        oldKey.key_id,
        input.at,
        input.policy.name,
        input.scheduled?.cycle,
        input.scheduled?.wave,
      ],
    )
    if (row === undefined) throw new Error('insert returned no row')
    await noteStage(tx, { ...input, stage: 'requested' })
    // Whoever asks for it, it answers what is known of the key. The audit log's head is locked by now, as it is while a leak is
    // recorded: one that this does not see will see this rotation. Index leaks_by_key.
    await tx.query(`update leaks set rotation_id = $2 where key_id = $1 and status <> 'closed'`, [
      oldKey.key_id,
      input.rotationId,
    ])
    return toSummary({ ...row, environment: credential.environment })
  })
}

/** Index rollover_members_by_rotation. */
const OF_ROLLOVER = 'select from rollover_members where rotation_id = $1'

/** Index keys_credential_id_version_key. */
async function keyToRotate(
  tx: Tx,
  credentialId: CredentialId,
  trigger: Trigger,
): Promise<{ key_id: KeyId; standing: string } | undefined> {
  const { rows } = await tx.query<{ key_id: KeyId; standing: string; state: string }>(
    'select key_id, standing, state from keys where credential_id = $1 order by version desc',
    [credentialId],
  )
  const killsFirst = trigger === 'emergency' || trigger === 'leak'
  const dead = killsFirst ? rows.find(({ state }) => state === 'compromised') : undefined
  return rows.find(({ standing }) => standing === 'current') ?? dead
}

/** Which rotation answers a leak. Primary key. */
export async function linkLeak(tx: Tx, leakId: LeakId, rotationId: RotationId): Promise<void> {
  await tx.query('update leaks set rotation_id = $2 where leak_id = $1', [leakId, rotationId])
}

/** Marks a running rotation as one that kills its old key first. */
export async function takeOverRotation(
  db: Database,
  input: {
    rotationId: RotationId
    trigger: 'emergency' | 'leak'
    reason: string
    graceMs?: number
    at: Date
    actor: string
  },
): Promise<void> {
  await db.tx(async (tx) => {
    const rotation = await lockRotation(tx, input.rotationId)
    if (rotation.trigger === input.trigger) return
    refuseEnded(rotation)
    await tx.query('update rotations set trigger = $2, policy = $3 where rotation_id = $1', [
      input.rotationId,
      input.trigger,
      JSON.stringify(input.graceMs === undefined ? rotation.policy : { ...rotation.policy, ...graceTerms(input.graceMs) }),
    ])
    await appendAudit(tx, {
      at: input.at,
      actor: input.actor,
      action: 'rotation.taken-over',
      subject: input.rotationId,
      rotationId: input.rotationId,
      detail: { reason: input.reason, trigger: input.trigger },
    })
    await tell(tx, input.rotationId)
  })
}

/** A stage and what belongs to it. */
export interface StageNote {
  readonly stage: RotationStage
  readonly reason?: string
  readonly heldFor?: HeldFor
  readonly unconfirmed?: readonly string[]
  readonly deadline?: Date
}

export interface EnterStage extends StageNote {
  /** What started it; noted with the first stage. */
  readonly trigger?: Trigger
  readonly rotationId: RotationId
  readonly at: Date
  readonly actor: string
}

const inTransaction = (sql: Database | Tx): sql is Tx => !('tx' in sql)

/**
 * Moves a rotation to a stage; into the one where it stands already: nothing happens. What the collector has told is forgotten:
 * it tells it anew.
 * @throws RegistryError illegal-transition when the rotation has ended, or has gone on since: this is a late try of something that
 *   another one has done (a worker that stood still for a while)
 */
export async function enterStage(sql: Database | Tx, input: EnterStage): Promise<void> {
  if (!inTransaction(sql)) return sql.tx((tx) => enterStage(tx, input))
  const rotation = await lockRotation(sql, input.rotationId)
  if (rotation.stage === input.stage && rotation.held_for === (input.heldFor ?? null))
    return moveDeadline(sql, rotation, input.deadline)
  refuseEnded(rotation)
  const last = await first<{ at: Date }>(sql, 'select at from rotation_stages where rotation_id = $1 order by seq desc limit 1', [
    input.rotationId,
  ])
  if (last !== undefined && input.at < last.at)
    throw new RegistryError('illegal-transition', `rotation ${input.rotationId} has gone on to ${rotation.stage} since`)
  await sql.query(
    `update rotations set stage = $2, told = '{}', held_for = $3, unconfirmed = $4, deadline = coalesce($5, deadline), ended_at = $6 where rotation_id = $1`,
    [
      input.rotationId,
      input.stage,
      input.stage === 'held' ? input.heldFor : undefined,
      input.unconfirmed ?? [],
      input.deadline,
      isTerminal(input.stage) ? input.at : undefined,
    ],
  )
  await noteStage(sql, input)
}

/** The window of a stage that has begun already is another one now: a leak has shortened it. */
async function moveDeadline(tx: Tx, rotation: SqlRotation, deadline: Date | undefined): Promise<void> {
  if (deadline === undefined || rotation.deadline?.getTime() === deadline.getTime()) return
  await tx.query('update rotations set deadline = $2 where rotation_id = $1', [rotation.rotation_id, deadline])
}

async function noteStage(tx: Tx, input: EnterStage): Promise<void> {
  await tx.query(
    `insert into rotation_stages (rotation_id, seq, stage, at, reason)
     select $1, coalesce(max(seq), 0) + 1, $2, $3, $4 from rotation_stages where rotation_id = $1`,
    [input.rotationId, input.stage, input.at, input.reason === undefined ? undefined : storable(input.reason)],
  )
  await appendAudit(tx, {
    at: input.at,
    actor: input.actor,
    action: `rotation.${input.stage}`,
    subject: input.rotationId,
    rotationId: input.rotationId,
    detail: {
      ...(input.trigger === undefined ? {} : { trigger: input.trigger }),
      ...(input.reason === undefined ? {} : { reason: input.reason }),
      ...(input.heldFor === undefined ? {} : { heldFor: input.heldFor }),
      ...(input.unconfirmed === undefined || input.unconfirmed.length === 0 ? {} : { unconfirmed: input.unconfirmed }),
    },
  })
  await tell(tx, input.rotationId)
}

export async function setDeadline(
  db: Database,
  input: { rotationId: RotationId; deadline: Date; at: Date; actor: string; reason: string },
): Promise<void> {
  await db.tx(async (tx) => {
    const rotation = await lockRotation(tx, input.rotationId)
    if (rotation.deadline?.getTime() === input.deadline.getTime()) return
    refuseEnded(rotation)
    await tx.query('update rotations set deadline = $2 where rotation_id = $1', [input.rotationId, input.deadline])
    await appendAudit(tx, {
      at: input.at,
      actor: input.actor,
      action: 'rotation.extended',
      subject: input.rotationId,
      rotationId: input.rotationId,
      detail: { deadline: input.deadline.toISOString(), reason: input.reason },
    })
    await tell(tx, input.rotationId)
  })
}

/** Records a receipt; a later one of the same publication takes its place. */
export async function recordReceipt(
  db: Database,
  { rotationId, receipt }: { rotationId: RotationId; receipt: Receipt },
): Promise<void> {
  await db.tx(async (tx) => {
    await tx.query(
      `insert into receipts (rotation_id, key_id, revision, event, published_at, gateways, unconfirmed) values ($1, $2, $3, $4, $5, $6, $7)
       on conflict (rotation_id, key_id, revision)
       do update set published_at = excluded.published_at, gateways = excluded.gateways, unconfirmed = excluded.unconfirmed
         where excluded.published_at >= receipts.published_at`,
      [
        rotationId,
        receipt.keyId,
        receipt.revision,
        receipt.event,
        receipt.publishedAt,
        JSON.stringify(receipt.gateways),
        receipt.unconfirmed,
      ],
    )
    await tell(tx, rotationId)
  })
}

interface SqlWhole extends SqlSummary {
  timeline: { stage: RotationStage; at: string; reason: string | null }[]
  receipts: Receipt[]
}

/** One statement, so that all of it is of one moment: a timeline that ends with another stage than the rotation's would confuse. */
const SELECT_WHOLE = `
select w.*,
  (select coalesce(jsonb_agg(jsonb_build_object('stage', s.stage, 'at', s.at, 'reason', s.reason) order by s.seq), '[]')
   from rotation_stages s where s.rotation_id = w.rotation_id) as timeline,
  (select coalesce(jsonb_agg(jsonb_build_object('keyId', p.key_id, 'event', p.event, 'revision', p.revision,
     'publishedAt', p.published_at, 'gateways', p.gateways, 'unconfirmed', p.unconfirmed) order by p.published_at, p.revision), '[]')
   from receipts p where p.rotation_id = w.rotation_id) as receipts
from (${SELECT_ROTATIONS} where r.rotation_id = $1) w`

/** A rotation with its timeline and receipts. Primary keys throughout. */
export async function getRotation(db: Database, rotationId: string): Promise<Rotation | undefined> {
  const [row] = await db.query<SqlWhole>(SELECT_WHOLE, [rotationId])
  if (row === undefined) return undefined
  return {
    ...toSummary(row),
    timeline: row.timeline.map(({ stage, at, reason }) => ({ stage, at: iso(at), ...(reason === null ? {} : { reason }) })),
    receipts: row.receipts.map((receipt) => ({ ...receipt, publishedAt: iso(receipt.publishedAt) })),
  }
}

/** JSON of PostgreSQL has times with an offset. */
const iso = (text: string): string => new Date(text).toISOString()

/** Latest first, after the rotation `before`. By client: index rotations_by_client; by credential: rotations_by_credential; by stage: rotations_by_stage; all: rotations_by_time. */
export async function listRotations(
  db: Database,
  filter: { stage?: RotationStage; clientId?: string; credentialId?: string; limit: number; before?: RotationId },
): Promise<RotationSummary[]> {
  const values: unknown[] = [filter.limit]
  const filters: string[] = []
  if (filter.stage !== undefined) filters.push(`r.stage = $${values.push(filter.stage)}`)
  if (filter.clientId !== undefined) filters.push(`r.client_id = $${values.push(filter.clientId)}`)
  if (filter.credentialId !== undefined) filters.push(`r.credential_id = $${values.push(filter.credentialId)}`)
  if (filter.before !== undefined) {
    const last = `(select opened_at, rotation_id from rotations where rotation_id = $${values.push(filter.before)})`
    filters.push(`(r.opened_at, r.rotation_id) < ${last}`)
  }
  const where = filters.length === 0 ? '' : `where ${filters.join(' and ')}`
  const rows = await db.query<SqlSummary>(
    `${SELECT_ROTATIONS} ${where} order by r.opened_at desc, r.rotation_id desc limit $1`,
    values,
  )
  return rows.map(toSummary)
}

/** Index rotations_open. */
const OPEN_ROTATION = `${SELECT_ROTATIONS} where r.credential_id = $1 and r.ended_at is null`

/** The rotation that a credential is in. */
export async function openRotationOf(db: Database, credentialId: string): Promise<RotationSummary | undefined> {
  const [row] = await db.query<SqlSummary>(OPEN_ROTATION, [credentialId])
  return row === undefined ? undefined : toSummary(row)
}

/** Whoever follows the rotation hears that it has changed. */
export const tell = async (tx: Tx, rotationId: RotationId): Promise<void> => {
  await tx.query('select pg_notify($1, $2)', [ROTATION_CHANNEL, rotationId])
}
