/** Where the API is and what opens it: KEYTURN_API and KEYTURN_TOKEN, else `.keyturn/local.json` in this directory or one above. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import Type from 'typebox'
import { Check } from 'typebox/value'
import { Failure } from './failure.ts'

export interface Settings {
  /** Without a slash at the end. */
  readonly api: string
  readonly token: string
}

const Local = Type.Object({
  api: Type.String(),
  token: Type.String(),
  kafka: Type.Array(Type.String()),
  temporal: Type.String(),
  postgres: Type.String(),
})
export type Local = Type.Static<typeof Local>

/** What `npm start` has left for commands on the same machine. */
export function findLocal(from: string): Local | undefined {
  for (let directory = from; ; directory = dirname(directory)) {
    const text = readIfThere(join(directory, '.keyturn', 'local.json'))
    if (text !== undefined) {
      const parsed = parse(text)
      if (Check(Local, parsed)) return parsed
      throw new Failure(
        '.keyturn/local.json is not what `npm start` writes',
        `Found in ${directory}. Run \`npm start\` again, or remove it.`,
      )
    }
    if (directory === dirname(directory)) return undefined
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export function apiSettings(env: NodeJS.ProcessEnv, cwd: string): Settings {
  const api = env['KEYTURN_API'] || undefined
  const token = env['KEYTURN_TOKEN'] || undefined
  if (api !== undefined && !/^https?:\/\/[^\s]+$/.test(api)) {
    throw new Failure('KEYTURN_API is not a usable address', 'It looks like http://127.0.0.1:8080.')
  }
  // A token from the file is for the API of the file alone.
  const local = api === undefined ? findLocal(cwd) : undefined
  const address = api ?? local?.api
  if (address === undefined) {
    throw new Failure('Where is the API?', 'Set KEYTURN_API and KEYTURN_TOKEN, or run `npm start` and come back here.')
  }
  const shown = token ?? local?.token
  if (shown === undefined) throw new Failure('An operator token is required', 'Set KEYTURN_TOKEN beside KEYTURN_API.')
  return { api: address.replace(/\/+$/, ''), token: shown }
}

/** The environment for commands that go to the servers themselves; what is not set comes from `.keyturn/local.json`. */
export function serverEnvironment(env: NodeJS.ProcessEnv, cwd: string): NodeJS.ProcessEnv {
  if (env['KEYTURN_POSTGRES_URL']) return env
  const local = findLocal(cwd)
  if (local === undefined) return env
  return {
    KEYTURN_POSTGRES_URL: local.postgres,
    KEYTURN_KAFKA_BROKERS: local.kafka.join(','),
    KEYTURN_LOG_LEVEL: 'silent',
    ...env,
  }
}
