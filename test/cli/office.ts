/** A house with its API, and the `keyturn` command run as a person runs it: a process, from a directory of its own. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startApiServer } from '../../workers/api-server.ts'
import { eventually, type House, type HouseOptions } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { environmentOf } from '../support/processes.ts'

export const COMMAND = fileURLToPath(new URL('../../cli/keyturn.js', import.meta.url))

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Running {
  readonly pid: number
  /** Standard output so far. */
  readonly stdout: string
  /** Resolves once standard output holds a text; rejects when the command ends without it. */
  says(text: string): Promise<void>
  /** The same for standard error. */
  notes(text: string): Promise<void>
  readonly finished: Promise<Finished>
  /** Ends it as nothing can that it could answer to. */
  kill(): void
}

type Env = Readonly<Record<string, string>>

/** Starts the command in the background. Nothing of this process's own environment but where programs are. */
export function startKeyturn(
  args: readonly string[],
  { env = {}, cwd, input }: { env?: Env; cwd: string; input?: string },
): Running {
  const { PATH = '', HOME = '', TMPDIR = tmpdir() } = process.env
  const child = spawn(process.execPath, [COMMAND, ...args], {
    cwd,
    env: { PATH, HOME, TMPDIR, ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const said = { stdout: '', stderr: '' }
  let ended = false
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      said[stream] += text
    })
  }
  const finished = new Promise<Finished>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => {
      ended = true
      resolve({ code, ...said })
    })
  })
  async function until(stream: 'stdout' | 'stderr', text: string): Promise<void> {
    const look = (): boolean => {
      if (said[stream].includes(text)) return true
      if (ended) throw new Error(`the command ended without "${text}": ${said.stdout}${said.stderr}`)
      return false
    }
    await eventually(look, () => `"${text}" in ${said[stream]}`, 60_000)
  }
  return {
    pid: child.pid ?? 0,
    get stdout() {
      return said.stdout
    },
    says: (text) => until('stdout', text),
    notes: (text) => until('stderr', text),
    finished,
    kill: () => void child.kill('SIGKILL'),
  }
}

export const runKeyturn = (args: readonly string[], where: { env?: Env; cwd: string }): Promise<Finished> =>
  startKeyturn(args, where).finished

/** A directory above which there is no `.keyturn`. */
export function emptyDirectory(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'keyturn-cli-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

export interface Office {
  readonly house: House
  readonly api: string
  /** What points the command at this house. */
  readonly env: Env
  /** Everything that commands have printed. */
  readonly printed: string[]
  start(...args: string[]): Running
  run(...args: string[]): Promise<Finished>
  /** The same, with something on standard input. */
  runWith(input: string, ...args: string[]): Promise<Finished>
  /** Runs with `--json`, and reads the answer. Fails with what was said when the exit code is another one. */
  json<T>(args: readonly string[], code?: number): Promise<T>
  close(): Promise<void>
}

export async function openOffice(options: Partial<HouseOptions> = {}): Promise<Office> {
  const house = await openHouse({ time: 'real', ...options })
  const server = await startApiServer({ ...house.config, publicUrl: 'http://127.0.0.1:0' }, house.log)
  const directory = emptyDirectory()
  const printed: string[] = []
  const env = { ...environmentOf(house), KEYTURN_API: server.url, KEYTURN_TOKEN: house.config.operatorToken }
  const startWith = (input: string, ...args: string[]): Running => {
    const running = startKeyturn(args, { env, cwd: directory.path, input })
    running.finished.then(({ stdout, stderr }) => printed.push(stdout, stderr)).catch(() => {})
    return running
  }
  const start = (...args: string[]): Running => startWith('', ...args)
  return {
    house,
    api: server.url,
    env,
    printed,
    start,
    run: (...args) => start(...args).finished,
    runWith: (input, ...args) => startWith(input, ...args).finished,
    async json<T>(args: readonly string[], code = 0) {
      const finished = await start(...args, '--json').finished
      if (finished.code !== code) throw new Error(`exit code ${finished.code}: ${finished.stdout}${finished.stderr}`)
      return JSON.parse(finished.stdout) as T
    },
    async close() {
      await server.stop()
      await house.close()
      directory.remove()
    },
  }
}
