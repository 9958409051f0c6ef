/** What is on record of fleet rollovers: how far each has come, and which of its credentials are still without a new key. */
import {
  type ClientId,
  type CredentialId,
  type Environment,
  type GatewayReceipt,
  type KeyId,
  type RolloverCounts,
  type RolloverId,
  type RolloverReceipt,
  type RolloverRemainder,
  type RolloverStage,
  type RotationId,
  randomBase62,
  type Selector,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import { type Database, first } from './database.ts'
import { RegistryError } from './errors.ts'

export interface RolloverSummary {
  readonly rolloverId: RolloverId
  readonly selector: Selector
  readonly credentialId?: CredentialId
  readonly reason: string
  readonly actor: string
  readonly stage: RolloverStage
  readonly killed: number
  readonly unconfirmed: readonly string[]
  readonly openedAt: Date
  readonly endedAt?: Date
}

export interface Rollover extends RolloverSummary {
  readonly counts: RolloverCounts
  /** One, once the gateways have been asked. */
  readonly receipts: readonly RolloverReceipt[]
  /** Credentials that get no new key from it, the first hundred: they failed, or it was cancelled before their turn. */
  readonly remainder: readonly RolloverRemainder[]
}

interface SqlRollover {
  rollover_id: RolloverId
  selector: Selector
  credential_id: CredentialId | null
  reason: string
  actor: string
  stage: RolloverStage
  killed: number
  marks: Record<string, number> | null
  gateways: GatewayReceipt[]
  unconfirmed: string[]
  confirmed_at: Date | null
  opened_at: Date
  ended_at: Date | null
}

const toSummary = (sql: SqlRollover): RolloverSummary => ({
  rolloverId: sql.rollover_id,
  selector: sql.selector,
  reason: sql.reason,
  actor: sql.actor,
  stage: sql.stage,
  killed: sql.killed,
  unconfirmed: sql.unconfirmed,
  openedAt: sql.opened_at,
  ...(sql.credential_id === null ? {} : { credentialId: sql.credential_id }),
  ...(sql.ended_at === null ? {} : { endedAt: sql.ended_at }),
})

/** Members with the rotation that brings their new key. Indexes rollover_members_pkey, rotations_pkey, keys_pkey. */
const MEMBERS = `
from rollover_members m left join rotations r using (rotation_id) left join keys n on n.key_id = r.new_key_id where m.rollover_id = $1`
const FAILED = `(m.failure is not null or r.stage = 'rolled-back' or (r.stage = 'held' and r.held_for = 'failure'))`
const REMAINDER = 100

/** A rollover with its counts. Primary keys. */
export async function getRollover(db: Database, rolloverId: string): Promise<Rollover | undefined> {
  const row = await readRollover(db, rolloverId)
  if (row === undefined) return undefined
  const [counts] = await db.query<Omit<RolloverCounts, 'killed' | 'confirmed'>>(
    `select count(*) as selected, count(*) filter (where m.joined) as joined,
       count(*) filter (where n.state <> 'compromised') as successors,
       count(*) filter (where r.stage = 'completed' and n.state <> 'compromised') as delivered,
       count(*) filter (where ${FAILED}) as failed ${MEMBERS}`,
    [rolloverId],
  )
  if (counts === undefined) throw new Error('a count returned no row')
  const remainder = await db.query<{ credential_id: CredentialId; rotation_id: RotationId | null; why: string }>(
    `select m.credential_id, r.rotation_id, coalesce(m.failure, case when r.rotation_id is null then 'cancelled' else r.stage end) as why
     ${MEMBERS} and (${FAILED} or ($2 = 'cancelled' and r.rotation_id is null)) order by m.credential_id limit $3`,
    [rolloverId, row.stage, REMAINDER],
  )
  const { killed, gateways, unconfirmed, confirmed_at } = row
  const asked = confirmed_at !== null || gateways.length + unconfirmed.length > 0
  const receipt = {
    event: 'keyturn.key.compromised',
    keys: killed,
    killedAt: row.opened_at.toISOString(),
    gateways,
    unconfirmed,
  } as const
  return {
    ...toSummary(row),
    counts: { ...counts, killed, confirmed: confirmed_at === null ? 0 : killed },
    receipts: asked ? [receipt] : [],
    remainder: remainder.map(({ credential_id, rotation_id, why }) => ({
      credentialId: credential_id,
      why,
      ...(rotation_id === null ? {} : { rotationId: rotation_id }),
    })),
  }
}

/** Primary key. */
const readRollover = async (db: Database, rolloverId: string): Promise<SqlRollover | undefined> =>
  (await db.query<SqlRollover>('select * from rollovers where rollover_id = $1', [rolloverId]))[0]

/** @throws RegistryError unknown-rollover */
export async function needRollover(
  db: Database,
  rolloverId: RolloverId,
): Promise<RolloverSummary & { readonly marks?: Readonly<Record<string, number>>; readonly confirmed: boolean }> {
  const row = await readRollover(db, rolloverId)
  if (row === undefined) throw new RegistryError('unknown-rollover', `there is no rollover ${rolloverId}`)
  return { ...toSummary(row), confirmed: row.confirmed_at !== null, ...(row.marks === null ? {} : { marks: row.marks }) }
}

/** Latest first. Index rollovers_by_time. */
export async function listRollovers(db: Database, limit: number): Promise<RolloverSummary[]> {
  const rows = await db.query<SqlRollover>('select * from rollovers order by opened_at desc, rollover_id desc limit $1', [limit])
  return rows.map(toSummary)
}

/** Those that somebody has to look after. Index rollovers_under_way. */
export async function rolloversUnderWay(db: Database): Promise<RolloverId[]> {
  const rows = await db.query<{ rollover_id: RolloverId }>('select rollover_id from rollovers where ended_at is null')
  return rows.map(({ rollover_id }) => rollover_id)
}

/** The keys that it has killed. Primary key. */
export async function keysOfRollover(db: Database, rolloverId: RolloverId): Promise<KeyId[]> {
  const rows = await db.query<{ key_id: KeyId }>(
    'select unnest(key_ids) as key_id from rollover_members where rollover_id = $1 order by credential_id',
    [rolloverId],
  )
  return rows.map(({ key_id }) => key_id)
}

/** Notes where the events of the killed keys end in the log. What was noted first stays, but for a log that was lost. */
export async function recordMarks(
  db: Database,
  input: { rolloverId: RolloverId; marks: Readonly<Record<string, number>>; lost?: boolean },
): Promise<void> {
  await db.query('update rollovers set marks = $2 where rollover_id = $1 and (marks is null or $3)', [
    input.rolloverId,
    JSON.stringify(input.marks),
    input.lost === true,
  ])
}

/** Notes which gateways have applied the end of all its keys. Once published it can be complete, and stays so. */
export async function recordConfirmation(
  db: Database,
  input: {
    rolloverId: RolloverId
    gateways: readonly GatewayReceipt[]
    unconfirmed: readonly string[]
    published: boolean
    at: Date
  },
): Promise<void> {
  const complete = input.published && input.unconfirmed.length === 0
  await db.query(
    'update rollovers set gateways = $2, unconfirmed = $3, confirmed_at = $4 where rollover_id = $1 and confirmed_at is null',
    [input.rolloverId, JSON.stringify(input.gateways), input.unconfirmed, complete ? input.at : null],
  )
}

/** Moves a rollover to a stage; into the one where it is already: nothing happens. The last one ends it. */
export async function enterRolloverStage(
  db: Database,
  input: { rolloverId: RolloverId; stage: RolloverStage; ended?: boolean; reason?: string; at: Date; actor: string },
): Promise<void> {
  await db.tx(async (tx) => {
    const row = await first<SqlRollover>(tx, 'select * from rollovers where rollover_id = $1 for no key update', [
      input.rolloverId,
    ])
    if (row === undefined) throw new RegistryError('unknown-rollover', `there is no rollover ${input.rolloverId}`)
    const ended = input.ended === true
    if (row.ended_at !== null || (row.stage === input.stage && !ended)) return
    await tx.query('update rollovers set stage = $2, ended_at = $3 where rollover_id = $1', [
      input.rolloverId,
      input.stage,
      ended ? input.at : null,
    ])
    const { at, actor, reason, rolloverId, stage } = input
    const action = ended && stage === row.stage ? 'rollover.ended' : `rollover.${stage}`
    await appendAudit(tx, { at, actor, action, subject: rolloverId, detail: reason === undefined ? {} : { reason } })
  })
}

export interface RolloverMember {
  readonly credentialId: CredentialId
  readonly clientId: ClientId
  readonly environment: Environment
  /** Of the rotation that is to bring its new key. */
  readonly rotationId: RotationId
}

/** Credentials whose turn it is. Each has its rotation's id from the first time on, so that whoever asks again asks for the same one. */
export async function nextMembers(db: Database, rolloverId: RolloverId, limit: number): Promise<RolloverMember[]> {
  const rotationIds = Array.from({ length: limit }, () => `rot_${randomBase62(16)}`)
  // Primary key; the rows of one rollover.
  return db.query<RolloverMember>(
    `with next as (
       select credential_id, row_number() over (order by credential_id) as place from (
         select credential_id from rollover_members where rollover_id = $1 and started_at is null order by credential_id limit $2) w
     )
     update rollover_members m set rotation_id = coalesce(m.rotation_id, ($3::text[])[next.place])
     from next join credentials c using (credential_id) where m.rollover_id = $1 and m.credential_id = next.credential_id
     returning m.credential_id as "credentialId", c.client_id as "clientId", c.environment, m.rotation_id as "rotationId"`,
    [rolloverId, limit, rotationIds],
  )
}

/** Notes which rotation brings the new key, or why none does. */
export async function noteMember(
  db: Database,
  input: { rolloverId: RolloverId; credentialId: CredentialId; rotationId?: RotationId; failure?: string; at: Date },
): Promise<void> {
  await db.query(
    `update rollover_members set started_at = $3, rotation_id = coalesce($4, rotation_id), failure = $5
     where rollover_id = $1 and credential_id = $2 and started_at is null`,
    [input.rolloverId, input.credentialId, input.at, input.rotationId, input.failure],
  )
}

/** The rotation that has issued a credential's current key. Index keys_current. */
export async function rotationOfCurrentKey(db: Database, credentialId: CredentialId): Promise<RotationId | undefined> {
  const [row] = await db.query<{ rotation_id: RotationId | null }>(
    `select rotation_id from keys where credential_id = $1 and standing = 'current'`,
    [credentialId],
  )
  return row?.rotation_id ?? undefined
}

/** How many of its rotations have not told their client yet, and how many have not ended. */
export async function rotationsUnderWay(
  db: Database,
  rolloverId: RolloverId,
): Promise<{ untold: number; open: number; waiting: number }> {
  const [row] = await db.query<{ untold: number; open: number; waiting: number }>(
    `select count(*) filter (where m.started_at is not null and r.stage in ('requested', 'introducing', 'deactivating')) as untold,
       count(*) filter (where m.started_at is not null and m.failure is null and r.ended_at is null) as open,
       count(*) filter (where m.started_at is null) as waiting ${MEMBERS}`,
    [rolloverId],
  )
  return row ?? { untold: 0, open: 0, waiting: 0 }
}
