/** What the registry's tests stand on: a database of their own, and credentials and rotations in the state that a test begins with. */
import { randomBytes } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import {
  type CredentialId,
  DEFAULT_POLICY,
  type Environment,
  type KeyId,
  type RotationId,
  type RotationPolicy,
  randomBase62,
  type Trigger,
  type UsageOutcome,
  type UsageReport,
} from '@keyturn/contract'
import { claimCode, redeemClaim } from '../../registry/claims.ts'
import { createClient } from '../../registry/clients.ts'
import { createCredential, type NewCredential } from '../../registry/credentials.ts'
import { type Database, openDatabase } from '../../registry/database.ts'
import { deprecateKey, getKey, introduceSuccessor, type KeyRow } from '../../registry/keys.ts'
import { enterStage, openRotation } from '../../registry/rotations.ts'
import { createSealer, type Sealer } from '../../registry/sealing.ts'
import { applyUsage } from '../../registry/usage.ts'
import { createDatabase } from '../support/servers.ts'

export const DAY = 86_400_000
export const HOUR = 3_600_000
/** When everything in these tests begins. */
export const START = Date.parse('2026-03-01T00:00:00.000Z')
export const at = (ms: number): Date => new Date(START + ms)

export const sealer = createSealer(randomBytes(32))
export const newRotationId = (): RotationId => `rot_${randomBase62(16)}` as RotationId

/** It counts as compared with the keys topic: these tests publish to none. */
export async function openTestDatabase(options?: { max?: number }): Promise<Database> {
  const db = openDatabase(await createDatabase(), options)
  await db.query('update registry_check set fingerprint = registry_fingerprint()')
  return db
}

export interface TestCredential {
  readonly clientId: string
  readonly credentialId: CredentialId
  readonly keyId: KeyId
  readonly claimId: string
}

export async function makeCredential(
  db: Database,
  environment: Environment = 'prod',
  sealedBy: Sealer = sealer,
  what: Pick<NewCredential, 'kind' | 'publicKey'> = {},
): Promise<TestCredential> {
  const { clientId } = await createClient(db, { name: 'Acme', contacts: [], at: at(0), actor: 'test' })
  const {
    credentialId,
    keyId,
    claimId = '',
  } = await createCredential(db, {
    ...what,
    clientId,
    name: 'feed',
    environment,
    scopes: ['read:prices'],
    brand: 'kt',
    sealer: sealedBy,
    claimExpiresAt: at(DAY),
    at: at(0),
    actor: 'test',
  })
  return { clientId, credentialId, keyId, claimId }
}

export interface TestRotation extends TestCredential {
  readonly rotationId: RotationId
  readonly newKeyId: KeyId
  readonly newClaimId: string
  /** What every change of this rotation says of itself. */
  readonly by: { readonly rotationId: RotationId; readonly actor: string; readonly at: Date; readonly reason: string }
}

export async function open(
  db: Database,
  credential: TestCredential,
  { policy, trigger = 'manual' }: { policy?: Partial<RotationPolicy>; trigger?: Trigger } = {},
): Promise<RotationId> {
  const rotationId = newRotationId()
  await openRotation(db, {
    rotationId,
    credentialId: credential.credentialId,
    trigger,
    reason: 'test',
    policy: { ...DEFAULT_POLICY, ...policy },
    at: at(0),
    actor: 'test',
  })
  return rotationId
}

export const introduce = (db: Database, rotationId: RotationId) =>
  introduceSuccessor(db, { rotationId, brand: 'kt', sealer, claimExpiresAt: at(DAY), at: at(0), actor: 'test' })

/** A rotation in monitoring: both keys are accepted. */
export async function monitored(
  db: Database,
  policy?: Partial<RotationPolicy>,
  what?: Parameters<typeof makeCredential>[3],
): Promise<TestRotation> {
  const credential = await makeCredential(db, 'prod', sealer, what)
  const rotationId = await open(db, credential, policy === undefined ? {} : { policy })
  const { keyId: newKeyId, claimId: newClaimId } = await introduce(db, rotationId)
  const by = { rotationId, actor: 'test', at: at(0), reason: 'test' }
  await deprecateKey(db, { ...by, keyId: credential.keyId, sunsetAt: at(14 * DAY), successor: 2, stage: { stage: 'notifying' } })
  await enterStage(db, { ...by, stage: 'monitoring' })
  return { ...credential, rotationId, newKeyId, newClaimId, by }
}

export async function keyOf(db: Database, keyId: KeyId): Promise<KeyRow> {
  const row = await getKey(db, keyId)
  if (row === undefined) throw new Error(`there is no key ${keyId}`)
  return row
}

export async function tokenOf(db: Database, claimId: string): Promise<string> {
  const redeemed = await redeemClaim(db, { code: claimCode(sealer, claimId), at: at(0), from: 'test', sealer })
  if (redeemed.outcome !== 'handed-out') throw new Error(`the claim is ${redeemed.outcome}`)
  return redeemed.token
}

export const usageOf = (
  keyId: KeyId,
  outcome: UsageOutcome,
  times: { first?: Date; last: Date; count?: number },
  sources: UsageReport['sources'] = [],
): UsageReport => ({
  gatewayId: 'gw-1' as UsageReport['gatewayId'],
  keyId,
  from: (times.first ?? times.last).toISOString(),
  to: times.last.toISOString(),
  outcomes: [
    {
      outcome,
      count: times.count ?? 1,
      firstAt: (times.first ?? times.last).toISOString(),
      lastAt: times.last.toISOString(),
    },
  ],
  sources,
})

/** Counts reports at the end of a partition. */
export async function collect(db: Database, ...reports: UsageReport[]): Promise<void> {
  const [row] = await db.query<{ next: number }>('select max(next_offset) as next from usage_offsets where partition = 0')
  const next = row?.next ?? 0
  await applyUsage(db, {
    partition: 0,
    nextOffset: String(next + reports.length),
    reports: reports.map((report, i) => ({ offset: String(next + i), report })),
  })
}

/** Until so many transactions wait for a lock. */
export async function untilWaiting(db: Database, count: number): Promise<void> {
  for (const giveUp = Date.now() + 60_000; Date.now() < giveUp; await setTimeout(5)) {
    const [row] = await db.query<{ n: number }>(
      `select count(*) as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    if ((row?.n ?? 0) >= count) return
  }
  throw new Error(`there are no ${count} transactions that wait for a lock`)
}

/** The SQLSTATE with which the database refuses a statement. */
export async function refusalOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error)
  }
  return 'not refused'
}
