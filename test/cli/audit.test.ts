/** `keyturn audit verify`: it finds what somebody with every right on the database has done to the log (G7). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../registry/database.ts'
import { monitored } from '../registry/world.ts'
import { createDatabase } from '../support/servers.ts'
import { emptyDirectory, type Finished, runKeyturn } from './office.ts'

let url = ''
let db: Database
let entries = 0
const directory = emptyDirectory()

beforeAll(async () => {
  url = await createDatabase()
  db = openDatabase(url, { max: 1 })
  await monitored(db)
  const [row] = await db.query<{ count: number }>('select count(*) as count from audit')
  entries = row?.count ?? 0
})
afterAll(async () => {
  await db.close()
  directory.remove()
})

const verify = (...options: string[]): Promise<Finished> =>
  runKeyturn(['audit', 'verify', ...options], { env: { KEYTURN_POSTGRES_URL: url }, cwd: directory.path })

/** Does something to the log as the superuser can, with triggers disabled, looks, and puts everything back. */
async function tampered(...statements: string[]): Promise<Finished> {
  const switched = (how: string) => db.query(`alter table audit ${how} trigger all`)
  await db.query('create table kept as table audit')
  await switched('disable')
  try {
    for (const statement of statements) await db.query(statement)
    return await verify()
  } finally {
    await db.query('delete from audit')
    await db.query('insert into audit select * from kept')
    await switched('enable')
    await db.query('drop table kept')
  }
}

const broken = (what: string): Finished => ({ code: 1, stdout: `The audit log is broken: ${what}\n`, stderr: '' })

test('a log that nobody has touched is whole', async () => {
  expect(await verify()).toEqual({ code: 0, stdout: `The audit log is whole: ${entries} entries\n`, stderr: '' })
  const json = await verify('--json')
  expect(json.code).toBe(0)
  expect(JSON.parse(json.stdout)).toEqual({ ok: true, entries })
})

describe('G7: it says where the log is broken, with exit code 1', () => {
  test('after an edit', async () => {
    expect(await tampered(`update audit set actor = 'nobody' where seq = 3`)).toEqual(broken('entry 3 was edited'))
  })

  test('after an edit of the time alone', async () => {
    const later = `update audit set at = at + interval '1 hour' where seq = 2`
    expect(await tampered(later)).toEqual(broken('entry 2 was edited'))
  })

  test('after a removal', async () => {
    expect(await tampered('delete from audit where seq = 4')).toEqual(broken('entry 4 is missing'))
  })

  test('after the removal of the last entry', async () => {
    expect(await tampered(`delete from audit where seq = ${entries}`)).toEqual(broken(`entry ${entries} is missing`))
  })

  test('after a reordering', async () => {
    const swap = ['seq = -2 where seq = 2', 'seq = 2 where seq = 3', 'seq = 3 where seq = -2']
    const verdict = await tampered(...swap.map((step) => `update audit set ${step}`))
    expect(verdict).toEqual(broken('entry 2 does not follow the entry before it'))
  })

  test('with --json, as data', async () => {
    await db.query('alter table audit disable trigger all')
    await db.query(`update audit set detail = detail || '{"edited": true}' where seq = 1`)
    const { code, stdout } = await verify('--json')
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toEqual({ ok: false, seq: 1, flaw: 'was edited' })
    await db.query(`update audit set detail = detail - 'edited' where seq = 1`)
    await db.query('alter table audit enable trigger all')
    expect((await verify()).code).toBe(0)
  })
})
