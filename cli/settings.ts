/**
 * Where the API is and what opens it: KEYTURN_API and KEYTURN_TOKEN, else `.keyturn/local.json` in this directory or one above.
 * KEYTURN_STATE names another directory than `.keyturn`, as for `npm start`.
 */
import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { Failure, UsageFailure } from './failure.ts'

export interface Settings {
  /** Without a slash at the end. */
  readonly api: string
  readonly token: string
}

/** What `npm start` has left for commands on the same machine. */
interface Local extends Settings {
  readonly gateways: readonly string[]
  readonly kafka: readonly string[]
  readonly temporal: string
  readonly postgres: string
  /** Of the file. */
  readonly directory: string
}

const PRINTABLE = /^[\x21-\x7e]+$/

/** @throws Failure when the file is there and holds something else */
function findLocal(env: NodeJS.ProcessEnv, cwd: string): Local | undefined {
  const named = env['KEYTURN_STATE']
  if (named) return readLocal(resolve(cwd, named, 'local.json'))
  for (let directory = cwd; ; directory = dirname(directory)) {
    const local = readLocal(join(directory, '.keyturn', 'local.json'))
    if (local !== undefined || directory === dirname(directory)) return local
  }
}

function readLocal(path: string): Local | undefined {
  const text = readIfThere(path)
  if (text === undefined) return undefined
  const local = parse(text)
  if (isLocal(local)) return { ...local, directory: dirname(path) }
  throw new Failure(`${path} is not what \`npm start\` writes`, 'Run `npm start` again, or remove it.')
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new Failure(
      `${path} can not be read (${code ?? 'error'})`,
      'It is for whoever ran `npm start`; set KEYTURN_API and KEYTURN_TOKEN.',
    )
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// By hand: the schema library takes longer to load than most commands take in all.
function isLocal(parsed: unknown): parsed is Omit<Local, 'directory'> {
  if (typeof parsed !== 'object' || parsed === null) return false
  const { api, token, temporal, postgres, kafka, gateways } = parsed as Partial<Record<keyof Local, unknown>>
  return (
    [api, token, temporal, postgres].every((value) => typeof value === 'string') &&
    isAddress(String(api)) &&
    PRINTABLE.test(String(token)) &&
    [kafka, gateways].every((list) => Array.isArray(list) && list.every((address) => typeof address === 'string'))
  )
}

function isAddress(text: string): boolean {
  if (!URL.canParse(text)) return false
  const { protocol, username, password, search, hash } = new URL(text)
  return /^https?:$/.test(protocol) && `${username}${password}${search}${hash}` === ''
}

export function apiSettings(env: NodeJS.ProcessEnv, cwd: string): Settings {
  const api = env['KEYTURN_API'] || undefined
  const token = env['KEYTURN_TOKEN'] || undefined
  if (api !== undefined && !isAddress(api)) {
    throw new UsageFailure('KEYTURN_API is not a usable address', 'It looks like http://127.0.0.1:8080.')
  }
  if (token !== undefined && !PRINTABLE.test(token)) {
    throw new UsageFailure('KEYTURN_TOKEN is not a usable token', 'It has letters, digits and signs, and no spaces.')
  }
  // A token from the file is for the API of the file alone.
  const local = api === undefined ? findLocal(env, cwd) : undefined
  const address = api ?? local?.api
  if (address === undefined) {
    throw new UsageFailure('Where is the API?', 'Set KEYTURN_API and KEYTURN_TOKEN, or run `npm start` and come back here.')
  }
  const shown = token ?? local?.token
  if (shown === undefined) throw new UsageFailure('An operator token is required', 'Set KEYTURN_TOKEN beside KEYTURN_API.')
  return { api: address.replace(/\/+$/, ''), token: shown }
}

const OF_OTHERS = [
  'KEYTURN_API',
  'KEYTURN_TOKEN',
  'KEYTURN_POSTGRES_URL',
  'KEYTURN_KAFKA_BROKERS',
  'KEYTURN_TEMPORAL_ADDRESS',
] as const

/**
 * The local stack, for what must never touch another one.
 * @throws UsageFailure when there is none, or when KEYTURN_API names something else
 */
export function localStack(env: NodeJS.ProcessEnv, cwd: string): Pick<Local, 'api' | 'gateways' | 'directory'> {
  const elsewhere = OF_OTHERS.filter((name) => env[name])
  if (elsewhere.length > 0)
    throw new UsageFailure(
      'Drills run against the local stack alone',
      `Unset ${elsewhere.join(', ')}: what they name is never drilled.`,
    )
  const local = findLocal(env, cwd)
  if (local === undefined) throw new UsageFailure('There is no local stack to drill on', 'Run `npm start` and come back here.')
  return local
}

/** The environment for commands that go to the servers themselves; what is not set comes from `.keyturn/local.json`. */
export function serverEnvironment(env: NodeJS.ProcessEnv, cwd: string): NodeJS.ProcessEnv {
  if (env['KEYTURN_POSTGRES_URL']) return env
  const local = findLocal(env, cwd)
  if (local === undefined) return env
  return {
    KEYTURN_POSTGRES_URL: local.postgres,
    KEYTURN_KAFKA_BROKERS: local.kafka.join(','),
    KEYTURN_TEMPORAL_ADDRESS: local.temporal,
    KEYTURN_LOG_LEVEL: 'silent',
    ...env,
  }
}
