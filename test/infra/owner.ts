/** Starts the program of stack-owner.ts and looks at what it has started. */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const PROGRAM = fileURLToPath(new URL('./stack-owner.ts', import.meta.url))

export interface Owner {
  readonly child: ChildProcess
  readonly pid: number
  readonly postgresUrl: string
  readonly temporalAddress: string
  readonly runDirectory: string
}

export interface Process {
  readonly pid: number
  readonly parent: number
  readonly start: string
  readonly command: string
}

/** A temporary directory for owners alone, so that no other run clears up what a test looks at. */
export function ownTemporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-test-'))
  chmodSync(directory, 0o755)
  return directory
}

export function spawnOwner(args: readonly string[], env: NodeJS.ProcessEnv): ChildProcess {
  const { KEYTURN_POSTGRES_URL: _p, KEYTURN_KAFKA_BROKERS: _k, KEYTURN_TEMPORAL_ADDRESS: _t, ...rest } = process.env
  return spawn(process.execPath, ['--import', 'tsx', PROGRAM, ...args], {
    env: { ...rest, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

/** Resolves when the servers answer. */
export async function startOwner(args: readonly string[], env: NodeJS.ProcessEnv): Promise<Owner> {
  const child = spawnOwner(args, env)
  let errors = ''
  child.stderr?.on('data', (data: Buffer) => (errors += data.toString()))
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`the owner ended with ${code}: ${errors}`)))
    if (child.stdout === null) throw new Error('no output')
    createInterface({ input: child.stdout }).once('line', (line) => {
      resolve({
        child,
        pid: child.pid ?? 0,
        ...(JSON.parse(line) as Pick<Owner, 'postgresUrl' | 'temporalAddress' | 'runDirectory'>),
      })
    })
  })
}

/** Runs an owner that fails to start. @returns what it says */
export async function failedOwner(args: readonly string[], env: NodeJS.ProcessEnv): Promise<string> {
  const child = spawnOwner(args, env)
  let errors = ''
  child.stderr?.on('data', (data: Buffer) => (errors += data.toString()))
  const code = await new Promise((resolve) => child.once('close', resolve))
  if (code !== 1) throw new Error(`the owner ended with ${code}`)
  return errors
}

/** Every live process of this machine. */
export function processes(): Process[] {
  return readdirSync('/proc').flatMap((name) => {
    if (!/^\d+$/.test(name)) return []
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1')
      const [state, parent, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      if (state === 'Z') return []
      const command = readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ')
      return [{ pid: Number(name), parent: Number(parent), start: fields[17] ?? '', command }]
    } catch {
      return []
    }
  })
}

/** All that a process has started, and what those have. */
export function familyOf(pid: number): Process[] {
  const all = processes()
  const found: Process[] = []
  for (const parents = [pid]; parents.length > 0; ) {
    const parent = parents.shift()
    for (const child of all.filter((one) => one.parent === parent)) {
      found.push(child)
      parents.push(child.pid)
    }
  }
  return found
}

/** Those that still live; a pid that is used again is not one of them. */
export function alive(family: readonly Process[]): Process[] {
  const now = processes()
  return family.filter(({ pid, start }) => now.some((one) => one.pid === pid && one.start === start))
}
