/** The processes of the local house, each started as in production, with its log in a file of its own. */
import { createWriteStream, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type GuardedProcess, spawnGuarded } from '../stack/guard.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

export interface ProcessOptions {
  readonly name: string
  /** The program, from the root of the repository. */
  readonly file: string
  readonly env?: Readonly<Record<string, string>>
  readonly logDirectory: string
  /** Each line of standard output, beside the log. */
  readonly onLine?: (line: string) => void
  /** One line for standard input. What is secret goes here or into the environment, never into the arguments. */
  readonly input?: string
}

/** Starts one of our programs. */
export function startProcess({ name, file, env, logDirectory, onLine, input }: ProcessOptions): GuardedProcess {
  mkdirSync(logDirectory, { recursive: true })
  const log = createWriteStream(join(logDirectory, `${name}.log`))
  const guarded = spawnGuarded(process.execPath, ['--import', 'tsx', join(ROOT, file)], {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const { stdin, stdout, stderr } = guarded.child
  stdout?.pipe(log)
  stderr?.pipe(log)
  if (stdout !== null && onLine !== undefined) createInterface({ input: stdout }).on('line', onLine)
  stdin?.on('error', () => {})
  if (input === undefined) stdin?.end()
  else stdin?.write(`${input}\n`)
  return guarded
}

/** Asks until an address answers 200; gives up when the process has ended or the time is over. */
export async function untilReady(url: string, { child }: GuardedProcess, name: string, withinMs = 60_000): Promise<void> {
  const giveUp = Date.now() + withinMs
  for (;;) {
    if (child.exitCode !== null)
      throw new Error(`${name} ended with code ${child.exitCode} before it was ready: see .keyturn/logs/${name}.log`)
    const ready = await fetch(url, { signal: AbortSignal.timeout(2_000) }).then(
      ({ ok }) => ok,
      () => false,
    )
    if (ready) return
    if (Date.now() > giveUp) throw new Error(`${name} was not ready within ${withinMs / 1000} s: see .keyturn/logs/${name}.log`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
