/** For the commands that go to the servers themselves. What they need is loaded late: the others start without it. */
import type { ConfigOf, ConfigSection } from '../infra/config.ts'
import type { Database } from '../registry/database.ts'
import { Failure, UsageFailure } from './failure.ts'
import { serverEnvironment } from './settings.ts'

export async function serverConfig<S extends ConfigSection>(sections: readonly S[]): Promise<ConfigOf<S>> {
  const { ConfigError, loadConfig } = await import('../infra/config.ts')
  try {
    return loadConfig(serverEnvironment(process.env, process.cwd()), sections)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    throw new UsageFailure(error.message, 'Or run `npm start` and come back here.')
  }
}

/** @throws Failure in plain words when PostgreSQL is not there, or is not a registry */
export async function withRegistry<T>(postgresUrl: string, max: number, work: (db: Database) => Promise<T>): Promise<T> {
  const { openDatabase } = await import('../registry/database.ts')
  const db = openDatabase(postgresUrl, { applicationName: 'keyturn-cli', max })
  try {
    return await work(db)
  } catch (error) {
    throw inPlainWords(error, postgresUrl)
  } finally {
    await db.close()
  }
}

/** SQLSTATE: no such table, no such schema. */
const NO_REGISTRY = ['42P01', '3F000']
const NO_DATABASE = '3D000'
/** SQLSTATE class 28: the password, or pg_hba.conf. */
const NOT_LET_IN = /^28/
/** Of sockets, and SQLSTATE classes: connection, out of resources, shutting down. */
const AWAY = /^(E[A-Z]|08|53|57P)/

function inPlainWords(error: unknown, postgresUrl: string): unknown {
  const { code, message } = error as { code?: unknown; message?: unknown }
  const { host, pathname } = new URL(postgresUrl)
  const name = decodeURIComponent(pathname.slice(1))
  const failure = (what: string, hint: string): Failure => new Failure(what, hint, { cause: error })
  const late = typeof message === 'string' && message.startsWith('timeout exceeded')
  if (late) return failure(`PostgreSQL at ${host} does not answer`, 'Is it running? KEYTURN_POSTGRES_URL says where it is.')
  if (typeof code !== 'string') return error
  if (NO_REGISTRY.includes(code))
    return failure(`The database ${name} holds no registry`, 'KEYTURN_POSTGRES_URL says which one is looked at.')
  if (code === NO_DATABASE)
    return failure(`PostgreSQL at ${host} has no database ${name}`, 'KEYTURN_POSTGRES_URL says which one is looked at.')
  if (NOT_LET_IN.test(code))
    return failure(`PostgreSQL at ${host} does not let us in (${code})`, 'Set user and password in KEYTURN_POSTGRES_URL.')
  if (AWAY.test(code))
    return failure(`PostgreSQL at ${host} does not answer`, `Is it running? (${code}) KEYTURN_POSTGRES_URL says where it is.`)
  return error
}
