import { tmpdir } from 'node:os'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { runner } from 'node-pg-migrate'
import pg from 'pg'
import { expect, test } from 'vitest'
import { openDatabase } from '../../registry/database.ts'
import { migrate } from '../../registry/migrate.ts'
import { createDatabase } from '../support/servers.ts'

/** Beside a migrated one, and under a name that is cleared away with it. */
async function createEmptyDatabase(): Promise<string> {
  const url = new URL(await createDatabase())
  const client = new pg.Client({ connectionString: url.href })
  await client.connect()
  url.pathname += '_empty'
  await client.query(`create database ${url.pathname.slice(1)}`)
  await client.end()
  return url.href
}

async function tables(url: string): Promise<string[]> {
  const db = openDatabase(url)
  try {
    const rows = await db.query<{ name: string }>(
      `select table_name as name from information_schema.tables where table_schema = 'public'`,
    )
    return rows.map(({ name }) => name).sort()
  } finally {
    await db.close()
  }
}

test('four processes that migrate an empty database at the same time all find it migrated, once', async () => {
  const url = await createEmptyDatabase()
  await Promise.all(Array.from({ length: 4 }, () => migrate(url)))
  expect(await tables(url)).toContain('keys')
  const db = openDatabase(url)
  const runs = await db.query<{ name: string }>('select name from keyturn_migrations')
  await db.close()
  expect(new Set(runs.map(({ name }) => name)).size).toBe(runs.length)
})

test('whoever comes while another one migrates waits for it, and does not fail', async () => {
  const url = await createEmptyDatabase()
  const other = new pg.Client({ connectionString: url })
  await other.connect()
  // The lock that node-pg-migrate takes.
  await other.query('select pg_advisory_lock(7241865325823964)')
  let done = false
  const migrated = migrate(url).then(() => {
    done = true
  })
  for (;;) {
    const { rowCount } = await other.query(
      `select from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`,
    )
    if (rowCount === 1) break
    await setTimeout(5)
  }
  expect(done).toBe(false)
  await other.end()
  await migrated
  expect(await tables(url)).toContain('keys')
})

test('migrations are found wherever the process was started', async () => {
  const url = await createEmptyDatabase()
  const before = process.cwd()
  const chdir = (dir: string): void => {
    Object.defineProperty(process, 'cwd', { value: () => dir, configurable: true })
  }
  chdir(tmpdir())
  try {
    await migrate(url)
  } finally {
    chdir(before)
  }
  expect(await tables(url)).toContain('keys')
})

test('migrations go down again, to nothing', async () => {
  const url = await createDatabase()
  await runner({
    databaseUrl: url,
    dir: fileURLToPath(new URL('../../infra/migrations', import.meta.url)),
    direction: 'down',
    migrationsTable: 'keyturn_migrations',
    count: Number.POSITIVE_INFINITY,
    log: () => {},
  })
  expect(await tables(url)).toEqual(['keyturn_migrations'])
  const db = openDatabase(url)
  const functions = await db.query(`select proname from pg_proc where pronamespace = 'public'::regnamespace`)
  await db.close()
  expect(functions).toEqual([])
  await migrate(url)
  expect(await tables(url)).toContain('keys')
})
