/** The processes of the local house, each started as in production, with its log in a file of its own. */
import { createWriteStream, mkdirSync, type WriteStream } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type GuardedProcess, spawnGuarded, stopGuarded } from '../stack/guard.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PROGRAM = join(ROOT, 'infra/program.mjs')
const READY_WITHIN_MS = 120_000
const ASK_AGAIN_MS = 100
const ANSWER_MS = 2_000
/** What somebody may have set for this start; other variables of ours are for other processes. */
const KEPT = [
  'KEYTURN_TOPIC_PREFIX',
  'KEYTURN_TEMPORAL_NAMESPACE',
  'KEYTURN_TASK_QUEUE',
  'KEYTURN_BRAND',
  'KEYTURN_LOG_LEVEL',
  'KEYTURN_STARTUP_WAIT',
]

/** Everything in the environment that is not ours, and what is kept. */
export const plainEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('KEYTURN_') || KEPT.includes(name)))

export interface ProcessOptions {
  readonly name: string
  /** The program, from the root of the repository. */
  readonly file: string
  /** All of it. */
  readonly env: NodeJS.ProcessEnv
  /** Each line of standard output, beside the log. */
  readonly onLine?: (line: string) => void
  /** One line for standard input. What is secret goes here or into the environment, never into the arguments. */
  readonly input?: string
}

export interface HouseProcess extends GuardedProcess {
  readonly name: string
  /** Stops it, and resolves when its last line has been read. */
  stop(): Promise<void>
}

/** Of an environment: what is to be set, and what not. */
export type Variables = Readonly<Record<string, string | undefined>>

export interface Processes {
  start(options: ProcessOptions): HouseProcess
  /** Ends one and starts it again with some variables changed; `undefined` takes one away. @returns what takes that back */
  restart(name: string, changes: Variables): Promise<() => Promise<void>>
  /** Rejects when one of them ends without having been stopped. */
  readonly failed: Promise<never>
  /** The last one, who calls the others, first; then the others side by side. Nothing starts after that. */
  stopAll(): Promise<void>
}

/** @param logs the directory of the logs */
export function createProcesses(logs: string): Processes {
  mkdirSync(logs, { recursive: true })
  const running: { options: ProcessOptions; one: HouseProcess }[] = []
  let stopping = false
  let fail: (error: Error) => void = () => {}
  const failed = new Promise<never>((_, reject) => {
    fail = reject
  })
  failed.catch(() => {})
  const launch = (options: ProcessOptions, again: boolean): HouseProcess => {
    if (stopping) throw new Error('everything is being stopped')
    const file = join(logs, `${options.name}.log`)
    const log = createWriteStream(file, { flags: again ? 'a' : 'w' })
    return startProcess(options, log, (how) => {
      if (!stopping) fail(new Error(`${options.name} has ended (${how}): see ${file}`))
    })
  }
  async function restart(name: string, changes: Variables): Promise<() => Promise<void>> {
    const entry = running.find(({ options }) => options.name === name)
    if (entry === undefined) throw new Error(`there is no process ${name}`)
    const { env } = entry.options
    await entry.one.stop()
    entry.options = { ...entry.options, env: { ...env, ...changes } }
    entry.one = launch(entry.options, true)
    const before = Object.fromEntries(Object.keys(changes).map((variable) => [variable, env[variable]]))
    return async () => void (await restart(name, before))
  }
  return {
    failed,
    start(options) {
      const one = launch(options, false)
      running.push({ options, one })
      return one
    },
    restart,
    async stopAll() {
      stopping = true
      await running.at(-1)?.one.stop()
      await Promise.all(running.map(({ one }) => one.stop()))
    },
  }
}

function startProcess(
  { name, file, env, onLine, input }: ProcessOptions,
  log: WriteStream,
  endedByItself: (how: string) => void,
): HouseProcess {
  const guarded = spawnGuarded(process.execPath, [PROGRAM, file], {
    cwd: ROOT,
    env,
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const { stdin, stdout, stderr } = guarded.child
  stdout?.pipe(log, { end: false })
  stderr?.pipe(log, { end: false })
  const read =
    stdout === null || onLine === undefined
      ? Promise.resolve()
      : new Promise<void>((resolve) => createInterface({ input: stdout }).on('line', onLine).once('close', resolve))
  stdin?.on('error', () => {})
  if (input === undefined) stdin?.end()
  else stdin?.write(`${input}\n`)
  let stopped = false
  void guarded.ended.then((how) => {
    if (!stopped) endedByItself(how)
  })
  return {
    ...guarded,
    name,
    async stop() {
      stopped = true
      await stopGuarded(guarded)
      await read
    },
  }
}

/** Asks until an address answers 200. */
export async function untilReady(url: string, name: string): Promise<void> {
  const giveUp = Date.now() + READY_WITHIN_MS
  for (;;) {
    const ready = await fetch(url, { signal: AbortSignal.timeout(ANSWER_MS) }).then(
      ({ ok }) => ok,
      () => false,
    )
    if (ready) return
    if (Date.now() > giveUp) throw new Error(`${name} was not ready within ${READY_WITHIN_MS / 1000} s: see its log`)
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS))
  }
}
