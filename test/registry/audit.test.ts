import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { appendAudit, listAudit, verifyAudit } from '../../registry/audit.ts'
import type { Database } from '../../registry/database.ts'
import { at, makeCredential, monitored, openTestDatabase, refusalOf } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

/** Does what the database forbids, as its superuser can. */
const tamper = (...statements: string[]): Promise<void> =>
  db.tx(async (tx) => {
    await tx.query('set local session_replication_role = replica')
    for (const statement of statements) await tx.query(statement)
  })

const append = (detail: Record<string, unknown> = {}): Promise<void> =>
  db.tx((tx) => appendAudit(tx, { at: at(0), actor: 'test', action: 'test', subject: 'thing', detail }))

test('G7: entries can not be changed, removed or truncated', async () => {
  await append()
  expect(await refusalOf(db.query(`update audit set actor = 'nobody'`))).toBe('KT001')
  expect(await refusalOf(db.query('delete from audit'))).toBe('KT001')
  expect(await refusalOf(db.query('truncate audit'))).toBe('KT001')
})

test('G7: the chain holds over everything that a rotation does, and over text of any kind', async () => {
  await monitored(db)
  await append({ text: 'ä"\\\n\u0001😀 \u2028', number: 1.5e21, nested: { b: [1, null, true], a: {} }, '': '' })
  const [count] = await db.query<{ n: number }>('select count(*) as n from audit')
  expect(await verifyAudit(db)).toEqual({ ok: true, entries: count?.n })
})

test('G7: what PostgreSQL can not store is replaced, whoever has said it: the change that it tells of is made', async () => {
  await append({ reason: 'half \ud800 and \0NUL', nested: { list: ['\udd11\ud83d'] } })
  await db.tx((tx) => appendAudit(tx, { at: at(0), actor: 'a\0b\ud800', action: 'test', subject: 'half' }))
  expect(await listAudit(db, { subject: 'half', limit: 1 })).toMatchObject([{ actor: 'ab\ufffd' }])
  const [last] = (await listAudit(db, { subject: 'thing', limit: 1_000 })).slice(-1)
  expect(last?.detail).toEqual({ reason: 'half \ufffd and NUL', nested: { list: ['\ufffd\ufffd'] } })
  expect((await verifyAudit(db)).ok).toBe(true)
})

test('G7: what many write at once is one chain without a gap', async () => {
  const before = await verifyAudit(db)
  await Promise.all(Array.from({ length: 40 }, () => append()))
  const after = await verifyAudit(db)
  expect(after).toEqual({ ok: true, entries: (before.ok ? before.entries : 0) + 40 })
})

test('G7: a transaction that is rolled back leaves no gap', async () => {
  const failed = db.tx(async (tx) => {
    await appendAudit(tx, { at: at(0), actor: 'test', action: 'test', subject: 'thing' })
    throw new Error('no')
  })
  await expect(failed).rejects.toThrow('no')
  await append()
  expect((await verifyAudit(db)).ok).toBe(true)
})

describe('G7: tampering shows', () => {
  beforeEach(async () => {
    await tamper('truncate audit', `update audit_head set seq = 0, hash = repeat('0', 64)`)
    for (let i = 1; i <= 5; i++) await append({ i })
    expect(await verifyAudit(db)).toEqual({ ok: true, entries: 5 })
  })

  const EDITS = [
    `actor = 'nobody'`,
    `action = 'other'`,
    `subject = 'other'`,
    `at = at + interval '1 microsecond'`,
    `recorded_at = recorded_at + interval '1 microsecond'`,
    `revision = 7`,
    `rotation_id = 'rot_x'`,
    `detail = '{"i": 4}'`,
    `actor = 'test' || 'test', action = ''`,
  ]
  for (const edit of EDITS) {
    test(`an edit: ${edit}`, async () => {
      await tamper(`update audit set ${edit} where seq = 3`)
      expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 3 })
    })
  }

  test('an edit with a hash that fits shows at the entry after it', async () => {
    await tamper(
      `update audit set actor = 'nobody' where seq = 3`,
      `update audit set hash = encode(sha256(convert_to(audit_text(audit), 'UTF8')), 'hex') where seq = 3`,
    )
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 4 })
  })

  test('an edit with a function in the database that covers it up', async () => {
    const [row] = await db.query<{ text: string }>('select audit_text(audit) as text from audit where seq = 3')
    const [source] = await db.query<{ code: string }>(`select pg_get_functiondef('audit_text'::regproc) as code`)
    await tamper(
      `update audit set actor = 'nobody' where seq = 3`,
      `create or replace function audit_text(a audit) returns text language sql stable as $f$ select '${row?.text}' $f$`,
    )
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 3 })
    await db.query(source?.code ?? '')
  })

  test('a removal from the middle', async () => {
    await tamper('delete from audit where seq = 3')
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 3 })
  })

  test('a removal from the middle with the numbers closed up', async () => {
    await tamper('delete from audit where seq = 3', 'update audit set seq = seq - 1 where seq > 3')
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 3 })
  })

  test('a removal of the first entry, and of all', async () => {
    await tamper('delete from audit where seq = 1')
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 1 })
    await tamper('delete from audit')
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 1 })
  })

  test('a removal of the tail, and what is appended after it', async () => {
    await tamper('delete from audit where seq >= 4')
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 4 })
    await append()
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 4 })
  })

  test('a reordering', async () => {
    await tamper(
      'update audit set seq = -3 where seq = 3',
      'update audit set seq = 3 where seq = 4',
      'update audit set seq = 4 where seq = -3',
    )
    expect(await verifyAudit(db)).toMatchObject({ ok: false, seq: 3 })
  })
})

test('the log is read by subject and by rotation, in pages', async () => {
  const { keyId, rotationId } = await monitored(db)
  await makeCredential(db)
  const ofKey = await listAudit(db, { subject: keyId, limit: 10 })
  expect(ofKey.map(({ action, revision }) => [action, revision])).toEqual([
    ['key.introduced', 1],
    ['key.deprecated', 2],
  ])
  const all = await listAudit(db, { rotationId, limit: 100 })
  expect(all.length).toBeGreaterThan(4)
  expect(all.every((entry) => entry.rotationId === rotationId)).toBe(true)
  const page = await listAudit(db, { rotationId, after: all[1]?.seq ?? 0, limit: 2 })
  expect(page).toEqual(all.slice(2, 4))
})
