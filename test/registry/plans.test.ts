/** However many keys there are, no statement of the registry reads a big table from end to end. */
import { randomBytes } from 'node:crypto'
import { type CredentialId, DEFAULT_POLICY, type KeyId, type RolloverId, type RotationId, tokenSha256 } from '@keyturn/contract'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { listAudit, verifyAudit } from '../../registry/audit.ts'
import { claimOfKey, destroyExpiredClaims, redeemSuccessor, wipeRepeatableClaims } from '../../registry/claims.ts'
import { clientOfKey } from '../../registry/client-events.ts'
import { getClient } from '../../registry/clients.ts'
import { listCredentials } from '../../registry/credential-list.ts'
import { getCredential } from '../../registry/credentials.ts'
import { type Database, openDatabase } from '../../registry/database.ts'
import {
  beginWriting,
  changeDelivery,
  giveUpWriting,
  noteWritten,
  readStandings,
  readWriting,
} from '../../registry/deliveries.ts'
import { answerFallback, confirmedOverFallback, endOfKey, rolloverOverFallback } from '../../registry/fallback.ts'
import { compromiseKey, deactivateKey, getKey, keysOfCredential, reinstateKey, retireNewKey } from '../../registry/keys.ts'
import { recordLeaks } from '../../registry/leak-intake.ts'
import { forgetNonces, takeNonce } from '../../registry/nonces.ts'
import { ownKey } from '../../registry/own-key.ts'
import { getPolicy, listPolicies, policyOfCredential } from '../../registry/policies.ts'
import { keyIdPages, publishKey, publishUnpublished, unpublishedKeyIds } from '../../registry/publishing.ts'
import { gatewaysOpen, openSealer } from '../../registry/reseal.ts'
import * as rollovers from '../../registry/rollover-records.ts'
import { openRollover, previewRollover } from '../../registry/rollovers.ts'
import {
  enterStage,
  getRotation,
  listRotations,
  openRotationOf,
  recordReceipt,
  setDeadline,
  takeOverRotation,
} from '../../registry/rotations.ts'
import { dueCredentials, lastFailed, placeOfRank, scheduleState, waveStates } from '../../registry/schedule.ts'
import { keyForSession } from '../../registry/sessions.ts'
import {
  forgetTold,
  lastUses,
  readEvidence,
  rotationsToTell,
  setCompleteThrough,
  tellOnce,
  usageOffsets,
} from '../../registry/usage.ts'
import { LONG } from '../support/runs.ts'
import { createDatabase } from '../support/servers.ts'
import { at, collect, DAY, keyOf, monitored, sealer, tokenOf, usageOf } from './world.ts'

const FILL_TIMEOUT_MS = 600_000
const KEYS = LONG ? 1_000_000 : 100_000
/** A table is big when it has more rows than this: 10,000 where there are a million keys. */
const BIG = KEYS / 100
/** Of everything below so many times: it is written for a million keys. */
const part = (n: number): number => (n * KEYS) / 1_000_000
const nth = (n: number): string => String(Math.floor(part(n))).padStart(16, '0')

/** Two keys for each credential; a fifth of them have been rotated, and every five-hundredth is being rotated. */
const FILL = [
  [
    `insert into clients select 'cli_' || lpad(n::text, 16, '0'), 'client ' || n, '[]', now() from generate_series(1, ${part(20_000)}) n`,
    `insert into policies (name, position, revision, document, changed_at, changed_by, counted_from)
     values ('default', 0, 1, '{"name": "default", "all": true}', now(), 'test', now())`,
    `insert into credentials (credential_id, client_id, name, environment, scopes, kind, created_at, policy, current_since)
     select 'crd_' || lpad(n::text, 16, '0'), 'cli_' || lpad((1 + n % ${part(20_000)})::text, 16, '0'), 'feed ' || n, 'prod', '{read}', 'bearer', now(),
       'default', now()
     from generate_series(1, ${part(500_000)}) n`,
    `insert into rotations (rotation_id, credential_id, client_id, trigger, reason, stage, policy, old_key_id, new_key_id, opened_at, ended_at,
       policy_name, cycle, wave)
     select 'rot_' || lpad(n::text, 16, '0'), 'crd_' || lpad(n::text, 16, '0'), 'cli_' || lpad((1 + n % ${part(20_000)})::text, 16, '0'), 'manual', 'test',
       case when n <= ${part(1_000)} then 'monitoring' else 'completed' end, '${JSON.stringify(DEFAULT_POLICY)}',
       lpad((2 * n)::text, 16, '0'), lpad((2 * n + 1)::text, 16, '0'), now() - n * interval '1 second',
       case when n > ${part(1_000)} then now() end, 'default', n / ${part(20_000)}, 0
     from generate_series(1, ${part(100_000)}) n`,
    `insert into rotation_stages select rotation_id, 1, 'requested', opened_at, 'test' from rotations`,
    `insert into receipts select rotation_id, new_key_id, 1, 'keyturn.key.introduced', opened_at, '[]', '{}' from rotations`,
    `insert into audit (seq, at, actor, action, subject, revision, rotation_id, detail, prev_hash, hash)
     select n, now(), 'test', 'key.introduced', lpad(n::text, 16, '0'), 1, 'rot_' || lpad((n % ${part(100_000)})::text, 16, '0'), '{}', '', ''
     from generate_series(1, ${part(300_000)}) n`,
    `update audit_head set seq = ${part(300_000)}`,
    'update registry_check set fingerprint = registry_fingerprint()',
    `insert into rollovers (rollover_id, selector, reason, actor, stage, killed, opened_at, ended_at)
     select 'rol_1' || lpad(n::text, 15, '0'), '{}', 'test', 'test', 'completed', 100, now(), now() from generate_series(1, 500) n`,
    `insert into rollover_members (rollover_id, credential_id, joined, key_ids, started_at, rotation_id)
     select 'rol_1' || lpad((1 + n % 500)::text, 15, '0'), 'crd_' || lpad(n::text, 16, '0'), false, array[lpad((2 * n)::text, 16, '0')],
       now(), 'rot_' || lpad(n::text, 16, '0')
     from generate_series(1, ${part(50_000)}) n`,
    `insert into fallback_polls values ('gw-1', 300000, now())`,
    `insert into key_usage (key_id, first_accepted_at, last_accepted_at, accepted)
     select lpad(n::text, 16, '0'), now(), now(), 1 from generate_series(2, ${KEYS + 1}) n`,
  ],
  [
    `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at, published_revision, published_at)
     select lpad(n::text, 16, '0'), 'crd_' || lpad((n / 2)::text, 16, '0'), 1 + n % 2,
       case when n % 2 = 0 then 'deactivated' else 'active' end, case when n % 2 = 0 then 'retired' else 'current' end,
       'keyturn.key.introduced', jsonb_build_object('kind', 'bearer', 'sha256', encode(sha256(n::text::bytea), 'base64')), now(), now(), 1,
       now() - n * interval '1 second'
     from generate_series(2, ${KEYS + 1}) n`,
    `insert into claims (claim_id, key_id, code_sha256, state, created_at, expires_at, ended_at)
     select n::text, lpad(n::text, 16, '0'), n::text, 'used', now(), now(), now() from generate_series(2, ${part(200_000)}) n`,
    `insert into key_sources select lpad((2 + n % ${part(100_000)})::text, 16, '0'), 'address ' || n, 'agent', 1, now(), now() from generate_series(1, ${part(200_000)}) n`,
  ],
]

let db: Database
let url: string
beforeAll(async () => {
  url = await createDatabase()
  db = openDatabase(url)
  // In no order that an index likes: built afterwards it takes a third of the time.
  const indexes = await db.query<{ made: string }>(
    `select pg_get_indexdef(name::regclass) as made from unnest('{keys_by_verifier, credentials_by_policy}'::text[]) name`,
  )
  await db.query('drop index keys_by_verifier, credentials_by_policy')
  await Promise.all(FILL.map(fill))
  await fill([...indexes.map(({ made }) => made), 'analyze'])
}, FILL_TIMEOUT_MS)
afterAll(() => db.close())

async function fill(statements: readonly string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query('set session_replication_role = replica; set synchronous_commit = off')
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}

interface PlanNode {
  readonly 'Node Type': string
  readonly 'Relation Name'?: string
  readonly 'Index Name'?: string
  readonly 'Index Cond'?: string
  readonly Plans?: readonly PlanNode[]
}

/** Indexes whose rows are few by their condition, whatever the size of the table. */
const NARROW = [
  'rotations_open',
  'keys_unpublished',
  'claims_open',
  'receipts_unconfirmed',
  'claims_by_kek',
  'keys_by_kek',
  'claims_repeatable',
]

/** What in a plan would take as long as the table is big: a scan of all of it, or of a whole index, but for a page of it. */
function flaws(node: PlanNode, big: ReadonlySet<string>, indexOf: ReadonlyMap<string, string>, page = false): string[] {
  const { 'Node Type': type, 'Index Name': index } = node
  const relation = node['Relation Name'] ?? (index === undefined ? undefined : indexOf.get(index))
  const paged = page || type === 'Limit'
  const below = (node.Plans ?? []).flatMap((child) => flaws(child, big, indexOf, paged && type !== 'Sort'))
  if (relation === undefined || !big.has(relation)) return below
  if (type === 'Seq Scan') return [`Seq Scan of ${relation}`, ...below]
  const whole = index !== undefined && node['Index Cond'] === undefined && !NARROW.includes(index) && !paged
  return whole ? [`all of ${index}`, ...below] : below
}

interface Statement {
  readonly text: string
  readonly values: readonly unknown[]
}

/** The statements that some work sends, each as it is sent. */
async function sentBy(work: () => Promise<unknown>): Promise<Statement[]> {
  const sent: Statement[] = []
  const { query } = pg.Client.prototype
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]) {
    const [text, values] = args
    if (typeof text === 'string' && /^\s*(select|insert|update|delete|with)\b/i.test(text)) {
      sent.push({ text, values: Array.isArray(values) ? values : [] })
    }
    return Reflect.apply(query, this, args)
  } as typeof query
  try {
    await work()
  } finally {
    pg.Client.prototype.query = query
  }
  return sent
}

async function flawsOf({ text, values }: Statement): Promise<string[]> {
  const tables = await db.query<{ name: string; rows: number; indexes: string[] | null }>(
    `select c.relname as name, c.reltuples as rows, array_agg(i.indexrelid::regclass::text) as indexes
     from pg_class c left join pg_index i on i.indrelid = c.oid where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace group by c.oid`,
  )
  const big = new Set(tables.filter(({ rows }) => rows > BIG).map(({ name }) => name))
  const indexOf = new Map(tables.flatMap(({ name, indexes }) => (indexes ?? []).map((index) => [index, name] as const)))
  const [row] = await db.query<{ 'QUERY PLAN': readonly { readonly Plan: PlanNode }[] }>(`explain (format json) ${text}`, values)
  const plan = row?.['QUERY PLAN'][0]?.Plan
  if (plan === undefined) throw new Error('there is no plan')
  return flaws(plan, big, indexOf)
}

test(`with ${KEYS} keys every statement goes by an index`, { timeout: FILL_TIMEOUT_MS }, async () => {
  const [size] = await db.query<{ n: number }>('select count(*) as n from keys')
  expect(size?.n).toBe(KEYS)
  const key = nth(500_011) as KeyId
  const credentialId = `crd_${nth(250_000)}`
  const clientId = `cli_${nth(40)}`
  const rotationId = `rot_${nth(50_000)}` as RotationId
  const openId = `rot_${nth(500)}` as RotationId

  const statements = await sentBy(async () => {
    // A whole rotation and back: everything that writes.
    const rotation = await monitored(db)
    const { keyId, newKeyId, by, claimId } = rotation
    await collect(
      db,
      usageOf(keyId, 'accepted', { last: at(1) }, [{ address: 'a', userAgent: 'b', count: 1, lastAt: at(1).toISOString() }]),
    )
    await setCompleteThrough(db, at(1), [])
    await deactivateKey(db, { ...by, keyId, unless: 'used' })
    const token = await tokenOf(db, claimId)
    await redeemSuccessor(db, { shown: { tokenSha256: tokenSha256(token) }, at: at(0), from: 'x', sealer })
    await redeemSuccessor(db, { shown: { tokenSha256: tokenSha256('none of ours') }, at: at(0), from: 'x', sealer })
    for (const shown of [{ tokenSha256: tokenSha256(token) }, { keyId }]) {
      await keyForSession(db, shown, at(0))
      await ownKey(db, shown, at(0))
      await clientOfKey(db, shown, at(0))
    }
    await gatewaysOpen(db)
    await openSealer(db, { kek: randomBytes(32) })
    const sighting = { source: 'test', url: 'https://example.com' }
    const hashes = (['sha256', 'hmsl'] as const).map((kind) => ({ ...sighting, hash: { kind, hex: '0'.repeat(64) } }))
    await recordLeaks(db, { sightings: hashes, reporter: 'operator', at: at(0) })
    await publishKey(db, keyId, async () => undefined)
    const receipt = { keyId, event: 'x', revision: 1, publishedAt: at(0).toISOString(), gateways: [], unconfirmed: [] }
    await recordReceipt(db, { rotationId: by.rotationId, receipt })
    await setDeadline(db, { ...by, deadline: at(DAY) })
    await tellOnce(db, { rotationId: by.rotationId, stage: 'monitoring', fact: 'old-key-quiet' }, async () => undefined)
    await forgetTold(db, by.rotationId)
    const delivery = { method: 'vault', address: 'https://vault.example', mount: 'a', path: 'b', role: 'c' } as const
    await db.tx((tx) => changeDelivery(tx, { credentialId: rotation.credentialId, delivery }))
    await readWriting(db, newKeyId, sealer)
    await beginWriting(db, newKeyId, delivery)
    await readStandings(db, rotation.credentialId)
    await noteWritten(db, { keyId: newKeyId, rotationId: by.rotationId, delivery, version: '1', identity: 'x', at: at(0) })
    await giveUpWriting(db, { ...by, keyId: newKeyId, why: 'test' })
    await db.tx((tx) => changeDelivery(tx, { credentialId: rotation.credentialId, delivery: { method: 'claim' } }))
    await deactivateKey(db, { ...by, keyId, unless: 'never' })
    await reinstateKey(db, { ...by, keyId })
    await retireNewKey(db, by)
    await takeOverRotation(db, { ...by, trigger: 'emergency' })
    await compromiseKey(db, { ...by, keyId: newKeyId })
    await enterStage(db, { ...by, stage: 'rolled-back' })
    await destroyExpiredClaims(db, at(DAY))
    await wipeRepeatableClaims(db, at(DAY))
    await takeNonce(db, { keyId, nonce: 'x', forgetAt: at(0) })
    await forgetNonces(db, at(0))

    // Everything that reads.
    await keyOf(db, key)
    await getKey(db, key)
    await getClient(db, clientId)
    await getCredential(db, credentialId)
    for (const filter of [{}, { clientId }, { clientName: 'client 7' }]) {
      await listCredentials(db, { ...filter, limit: 100 })
      await listCredentials(db, { ...filter, after: credentialId, limit: 100 })
    }
    await keysOfCredential(db, credentialId)
    await lastUses(db, credentialId)
    await claimOfKey(db, key)
    await getRotation(db, rotationId)
    await openRotationOf(db, credentialId)
    await readEvidence(db, openId)
    await rotationsToTell(db)
    await usageOffsets(db)
    await unpublishedKeyIds(db, 200)
    for await (const page of keyIdPages(db, 1_000)) if (page.length > 0) break
    await db.query('select key_id from keys where key_id > $1 order by key_id limit $2', [key, 1_000])
    for (const filter of [
      {},
      { clientId },
      { credentialId },
      { stage: 'monitoring' },
      { stage: 'completed', clientId },
    ] as const) {
      await listRotations(db, { ...filter, limit: 50 })
      await listRotations(db, { ...filter, limit: 50, before: rotationId })
    }
    for (const filter of [{}, { subject: key }, { rotationId }]) {
      await listAudit(db, { ...filter, limit: 100 })
      await listAudit(db, { ...filter, after: part(150_000), limit: 100 })
    }
    await verifyAudit(db)
    await listPolicies(db)
    await getPolicy(db, 'default')
    await policyOfCredential(db, credentialId)
    // A whole turn of the wheel, as a run of a policy looks at it.
    const sectors = Array.from({ length: 64 }, (_, i) => ({ from: i / 64, to: (i + 1) / 64, madeBy: at(0).getTime() }))
    await dueCredentials(db, { policy: 'default', sectors, rolledBackBefore: at(0), limit: 500 })
    await placeOfRank(db, 'default', 100)
    await waveStates(db, 'default', 2, at(0))
    await lastFailed(db, 'default', 2, at(0))
    await scheduleState(db, 'default')

    // A rollover of all that one client has, from the question to the end; others are of one credential, or of a label.
    const of = { selector: { client: clientId } }
    const rolloverId = 'rol_0000000000000001' as RolloverId
    const told = { rolloverId, at: at(0), actor: 'test' }
    for (const choice of [
      of,
      { selector: { labels: { team: 'fx' } } },
      { selector: {}, credentialId: credentialId as CredentialId },
    ])
      await previewRollover(db, choice)
    const { keyIds } = await openRollover(db, { ...of, ...told, reason: 'test' })
    // Its 25 current keys, and the old one of a rotation that is open.
    expect(keyIds).toHaveLength(26)
    await rollovers.rolloversUnderWay(db)
    await rollovers.listRollovers(db, 50)
    await rollovers.needRollover(db, rolloverId)
    await publishUnpublished(db, await rollovers.keysOfRollover(db, rolloverId), async () => undefined)
    await rollovers.recordMarks(db, { rolloverId, marks: { 0: 1 } })
    await rollovers.enterRolloverStage(db, { ...told, stage: 'issuing' })
    const [member] = await rollovers.nextMembers(db, rolloverId, 50)
    if (member === undefined) throw new Error('there is no member')
    await rollovers.noteMember(db, { ...member, ...told })
    await rollovers.rotationOfCurrentKey(db, member.credentialId)
    await rollovers.rotationsUnderWay(db, rolloverId)
    await rollovers.recordConfirmation(db, { ...told, gateways: [], unconfirmed: ['gw-1'], published: true })
    await rollovers.getRollover(db, rolloverId)

    // What gateways ask for that do not hear from Kafka, and what they have said.
    const question = { gatewayId: 'gw-1', since: new Date(Date.now() - 60_000), at: at(0), limit: 100 }
    const { next } = await answerFallback(db, question)
    await answerFallback(db, { ...question, after: next })
    await confirmedOverFallback(db, { keyId: key, revision: 1, since: at(0) })
    await rolloverOverFallback(db, { rolloverId, since: at(0) })
    await endOfKey(db, key)
    // What the trigger key_audited asks at the end of each change.
    await db.query('select from audit where subject = $1 and revision = $2 and xact = pg_current_xact_id()', [key, 1])
  })

  expect(statements.length).toBeGreaterThan(60)
  const found: Record<string, string[]> = {}
  for (const statement of statements) {
    const flawed = await flawsOf(statement)
    if (flawed.length > 0) found[statement.text.replace(/\s+/g, ' ')] = flawed
  }
  expect(found).toEqual({})
})

test('a statement that has no index to go by would be seen', async () => {
  expect(await flawsOf({ text: 'select 1 from keys where event = $1', values: ['x'] })).toEqual(['Seq Scan of keys'])
  expect(await flawsOf({ text: 'select max(created_at) from audit join keys on key_id = subject', values: [] })).not.toEqual([])
})
