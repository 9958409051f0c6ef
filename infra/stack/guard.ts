/**
 * Children that do not outlive this process, however it ends: each runs in a group of its own, and a reaper (reaper.mjs) ends
 * what is left when this process is gone.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { StackError } from './errors.ts'

const REAPER = fileURLToPath(new URL('./reaper.mjs', import.meta.url))
const PATIENCE_MS = 5_000
const MOST_REAPERS = 5
const KEEP_ALIVE_MS = 1_000

export interface GuardedOptions extends Omit<SpawnOptions, 'detached'> {
  /** What asks the child to end; SIGTERM unless given. SIGKILL follows when it does not. */
  readonly stopSignal?: NodeJS.Signals
}

export interface GuardedProcess {
  readonly child: ChildProcess
  readonly stopSignal: NodeJS.Signals
  /** Resolves, never rejects, when the child has ended or could not be started; with what to say of it. */
  readonly ended: Promise<string>
}

/** The part of this process in the guarding: its run, its reaper, and whom the reaper knows of. */
class Guard {
  readonly id = `run-${process.pid}-${randomBytes(6).toString('hex')}`
  readonly directory: string
  readonly children = new Map<number, NodeJS.Signals>()
  readonly files = new Set<string>()
  readonly ready: Promise<void>
  private readonly base = ownDirectory()
  private reaper: ChildProcess
  private reapers = 0

  constructor() {
    this.directory = join(this.base, this.id)
    // Others may pass through, not look: PostgreSQL runs as another user than root.
    mkdirSync(this.directory)
    chmodSync(this.directory, 0o711)
    // In the environment of all that this process starts from now on, whoever starts it.
    process.env['KEYTURN_RUN'] = this.id
    this.reaper = this.startReaper()
    const { reaper } = this
    this.ready = new Promise((resolve, reject) => {
      reaper.stdout?.once('data', () => resolve())
      reaper.once('error', (error) => reject(new StackError('The process that cleans up could not be started', { cause: error })))
      reaper.once('exit', (code) => reject(new StackError(`The process that cleans up ended with code ${code}`)))
    })
    this.ready.catch(() => {})
  }

  tell(order: { add: number; signal: NodeJS.Signals } | { gone: number } | { remove: string } | { keep: string }): void {
    this.reaper.stdin?.write(`${JSON.stringify(order)}\n`)
  }

  private startReaper(): ChildProcess {
    // Without the mark of an outer run: that run's end must not take this reaper before its work.
    const { KEYTURN_RUN: _mark, NODE_OPTIONS: _options, ...env } = process.env
    const reaper = spawn(process.execPath, [REAPER, this.base, this.id, String(process.pid)], {
      cwd: '/',
      detached: true,
      env,
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    reaper.stdin?.on('error', () => {})
    reaper.unref()
    for (const pipe of [reaper.stdin, reaper.stdout]) (pipe as { unref?(): void } | null)?.unref?.()
    reaper.on('error', () => {})
    reaper.on('exit', () => this.replaceReaper())
    return reaper
  }

  private replaceReaper(): void {
    if (++this.reapers >= MOST_REAPERS) return
    this.reaper = this.startReaper()
    for (const [pid, signal] of this.children) this.tell({ add: pid, signal })
    for (const file of this.files) this.tell({ remove: file })
  }
}

/** The directory of this user's runs, below the system's temporary directory. */
function ownDirectory(): string {
  const uid = process.getuid?.() ?? 0
  const directory = join(tmpdir(), `keyturn-${uid}`)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const found = lstatSync(directory)
  if (!found.isDirectory() || (process.getuid !== undefined && found.uid !== uid)) {
    throw new StackError(`${directory} belongs to another user: set TMPDIR to a directory of your own`)
  }
  chmodSync(directory, 0o711)
  return directory
}

let guard: Guard | undefined
function theGuard(): Guard {
  guard ??= new Guard()
  return guard
}

/** A directory of this process's own; it is removed when the process has ended. */
export const runDirectory = (): string => theGuard().directory

/** Has a file removed when this process has ended, however it ends. @returns what removes it now, and leaves it alone from then on */
export function removeAtEnd(file: string): () => void {
  const mine = theGuard()
  mine.files.add(file)
  mine.tell({ remove: file })
  return () => {
    if (!mine.files.delete(file)) return
    rmSync(file, { force: true })
    mine.tell({ keep: file })
  }
}

/** Resolves when the reaper stands and what dead runs had left is gone. */
export async function guardReady(): Promise<void> {
  // The reaper does not keep this process alive; waiting for it does.
  const alive = setInterval(() => {}, KEEP_ALIVE_MS)
  try {
    await theGuard().ready
  } finally {
    clearInterval(alive)
  }
}

/**
 * Starts a child in a process group of its own that ends when this process does. Otherwise as `spawn`; secrets go in the
 * environment or standard input, not in `args`.
 */
export function spawnGuarded(command: string, args: readonly string[], options: GuardedOptions = {}): GuardedProcess {
  const { stopSignal = 'SIGTERM', ...rest } = options
  const mine = theGuard()
  const env = { ...(rest.env ?? process.env), KEYTURN_RUN: mine.id }
  const child = spawn(command, args, { ...rest, env, detached: true })
  const { pid } = child
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => {
      if (pid !== undefined) {
        // What it has left in its group has nobody to answer to.
        signalGroup(pid, 'SIGKILL')
        mine.children.delete(pid)
        mine.tell({ gone: pid })
      }
      resolve(signal === null ? `exit code ${code}` : signal)
    })
  })
  if (pid !== undefined) {
    mine.children.set(pid, stopSignal)
    mine.tell({ add: pid, signal: stopSignal })
  }
  return { child, stopSignal, ended }
}

/** Asks a child and its group to end, and after `withinMs` makes them. Resolves when the child has ended. */
export async function stopGuarded({ child, stopSignal, ended }: GuardedProcess, withinMs = PATIENCE_MS): Promise<void> {
  const { pid } = child
  if (pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  signalGroup(pid, stopSignal)
  const timer = setTimeout(() => signalGroup(pid, 'SIGKILL'), withinMs)
  await ended
  clearTimeout(timer)
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal)
  } catch {
    // Gone already.
  }
}
