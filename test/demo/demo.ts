/**
 * `npm start` as a process: on servers of its own, or on those of this test run with a database, topics and task queue of its own;
 * with a state directory of its own, and a mark in the environment of all that it starts.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { inject } from 'vitest'
import type { DemoReport } from '../../infra/demo/report.ts'
import { eventually } from '../support/house.ts'
import { createDatabase } from '../support/servers.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
/** Not one of ours, so that it is handed down. */
const MARK = 'START_TEST_MARK'
/** A busy machine takes long to start eight processes. */
const READY_WITHIN_MS = 240_000

const NO_SERVERS = { KEYTURN_POSTGRES_URL: '', KEYTURN_KAFKA_BROKERS: '', KEYTURN_TEMPORAL_ADDRESS: '' }
const sharedServers = async (id: string) => ({
  KEYTURN_POSTGRES_URL: await createDatabase(),
  KEYTURN_KAFKA_BROKERS: inject('kafkaBrokers').join(','),
  KEYTURN_TEMPORAL_ADDRESS: inject('temporalAddress'),
  KEYTURN_TOPIC_PREFIX: `start${id}.`,
  KEYTURN_TASK_QUEUE: `start-${id}`,
})

export interface Demo {
  readonly child: ChildProcess
  /** Of its place: `local.json` and `logs` are in it. */
  readonly place: string
  stdout(): string
  stderr(): string
  /** Resolves with the exit code, when its output is complete. */
  readonly ended: Promise<number | null>
  /** Everything that it has started and that lives, by command. */
  processes(): { readonly pid: number; readonly command: string }[]
  /** Resolves with what `local.json` holds, once it is there. */
  ready(): Promise<Record<string, unknown>>
  /** What it holds now, when it is there. */
  now(): Record<string, unknown> | undefined
  /** The last line of standard output, read as JSON. */
  report(): DemoReport
}

/** @param how `npm`: as a person types it; `node`: the program itself, which gets the signals */
export async function startDemo(
  how: 'npm' | 'node',
  args: readonly string[],
  {
    state,
    place = state,
    servers = 'shared',
  }: { readonly state: string; readonly place?: string; readonly servers?: 'shared' | 'own' },
): Promise<Demo> {
  const id = randomBytes(6).toString('hex')
  const command = how === 'npm' ? ['npm', 'start', '--', ...args] : [process.execPath, 'infra/start.mjs', ...args]
  const child = spawn(command[0] ?? '', command.slice(1), {
    cwd: ROOT,
    env: { ...process.env, [MARK]: id, KEYTURN_STATE: state, ...(servers === 'own' ? NO_SERVERS : await sharedServers(id)) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      output[stream] += text
    })
  }
  const local = join(place, 'local.json')
  const now = (): Record<string, unknown> | undefined => {
    try {
      return JSON.parse(readFileSync(local, 'utf8')) as Record<string, unknown>
    } catch {
      return undefined
    }
  }
  return {
    child,
    place,
    stdout: () => output.stdout,
    stderr: () => output.stderr,
    now,
    ended: new Promise((resolve) => child.once('close', resolve)),
    processes: () => marked(id),
    ready: () =>
      eventually(
        () => {
          if (child.exitCode !== null) throw new Error(`it ended: ${output.stdout}${output.stderr}`)
          return now()
        },
        () => `${local}; so far: ${output.stdout}${output.stderr}`,
        READY_WITHIN_MS,
      ),
    report: () => JSON.parse(output.stdout.trimEnd().split('\n').at(-1) ?? '') as DemoReport,
  }
}

/** Every live process with the mark, this one's shells and loaders among them. */
function marked(id: string): { pid: number; command: string }[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      const zombie = readFileSync(`/proc/${name}/stat`, 'latin1').includes(') Z ')
      if (zombie || !readFileSync(`/proc/${name}/environ`, 'latin1').includes(`${MARK}=${id}`)) return []
      return [{ pid: Number(name), command: readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ').trim() }]
    } catch {
      return []
    }
  })
}

export const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8)
