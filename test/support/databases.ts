/** Databases of a test run: one that is migrated, and copies of it. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { migrate } from '../../registry/migrate.ts'

/** Of the advisory lock under which the template is made: any number. */
const LOCK = 7_041_977

const prefixOf = (runName: string): string => `keyturn_test_${runName}_`

const urlOf = (serverUrl: string, database: string): string => {
  const url = new URL(serverUrl)
  url.pathname = `/${database}`
  return url.href
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

/** Makes the run's template when it is not there yet; a half-made one has another name. */
async function ensureTemplate(client: pg.Client, serverUrl: string, runName: string): Promise<string> {
  const template = `${prefixOf(runName)}template`
  await client.query('select pg_advisory_lock($1)', [LOCK])
  try {
    const { rows } = await client.query('select from pg_database where datname = $1', [template])
    if (rows.length > 0) return template
    const unfinished = `${prefixOf(runName)}${randomBytes(4).toString('hex')}`
    await client.query(`create database ${unfinished}`)
    await migrate(urlOf(serverUrl, unfinished))
    await client.query(`alter database ${unfinished} rename to ${template}`)
    return template
  } finally {
    await client.query('select pg_advisory_unlock($1)', [LOCK])
  }
}

/** A migrated database with nothing in it. @returns its address */
export async function copyTemplate(serverUrl: string, runName: string): Promise<string> {
  return withClient(serverUrl, async (client) => {
    const template = await ensureTemplate(client, serverUrl, runName)
    const database = `${prefixOf(runName)}${randomBytes(6).toString('hex')}`
    await client.query(`create database ${database} template ${template}`)
    return urlOf(serverUrl, database)
  })
}

/** Drops all that `copyTemplate` has made in a run. */
export async function dropDatabases(serverUrl: string, runName: string): Promise<void> {
  await withClient(serverUrl, async (client) => {
    const { rows } = await client.query<{ datname: string }>('select datname from pg_database where starts_with(datname, $1)', [
      prefixOf(runName),
    ])
    for (const { datname } of rows) await client.query(`drop database if exists ${datname} with (force)`)
  })
}

/** A backup of a database: a copy. `restore` puts it in the place of the database, as it was; whoever was connected is cut off. */
export async function backUp(url: string): Promise<{ restore(): Promise<void> }> {
  const name = new URL(url).pathname.slice(1)
  const backup = `${name}_b`
  const server = urlOf(url, 'postgres')
  const copy = (client: pg.Client, from: string, to: string) =>
    // Others may come in between; PostgreSQL copies a database that nobody is connected to.
    retrying(async () => {
      await client.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [from])
      await client.query(`create database ${to} template ${from}`)
    })
  await withClient(server, (client) => copy(client, name, backup))
  return {
    restore: () =>
      withClient(server, async (client) => {
        await client.query(`drop database ${name} with (force)`)
        await copy(client, backup, name)
      }),
  }
}

async function retrying(work: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (attempt === 50) throw error
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
}
