/** The program that uses the key: told of another one, and asked whether it does well. */
import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import type { ProgramConfig } from './config.ts'

/** What a command must not learn from the agent: where its secrets are, and how to get at them. */
const OURS = /^(?:KEYTURN|VAULT|BAO|AWS)_|_TOKEN$|_SECRET$|PASSWORD/
const KILL_AFTER_MS = 5_000

/** Why a program could not be told, or is not well. Never holds a secret: neither its output nor its environment is in it. */
export class ProgramError extends Error {
  override readonly name = 'ProgramError'
  /** It may be well, and has not used the key. */
  readonly unused: boolean

  constructor(message: string, unused = false) {
    super(message)
    this.unused = unused
  }
}

/** Runs a command to its end, without a shell; in a group of its own, so that all of it can be ended. @throws ProgramError */
export async function runCommand([command = '', ...args]: readonly string[], timeoutMs: number, keyId: string): Promise<void> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !OURS.test(name)))
  const child = spawn(command, args, {
    env: { ...env, KEYTURN_KEY_ID: keyId },
    detached: true,
    // What it says goes where the agent's messages go.
    stdio: ['ignore', 2, 2],
  })
  const end = (signal: NodeJS.Signals): void => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, signal)
    } catch {
      // It has ended by itself.
    }
  }
  let late = false
  const timers = [
    setTimeout(() => {
      late = true
      end('SIGTERM')
    }, timeoutMs),
    setTimeout(() => end('SIGKILL'), timeoutMs + KILL_AFTER_MS),
  ]
  const kill = (): void => end('SIGKILL')
  process.on('exit', kill)
  try {
    const how = await new Promise<string>((resolve) => {
      child.once('error', (error: NodeJS.ErrnoException) => resolve(`could not be started (${error.code ?? error.name})`))
      child.once('exit', (code, signal) => resolve(code === 0 ? '' : `ended with ${signal ?? code}`))
    })
    if (late) throw new ProgramError(`${command} took longer than ${timeoutMs / 1_000} s`)
    if (how !== '') throw new ProgramError(`${command} ${how}`)
  } finally {
    process.removeListener('exit', kill)
    for (const timer of timers) clearTimeout(timer)
  }
}

async function sendSignal({ name, pidFile }: NonNullable<ProgramConfig['signal']>): Promise<void> {
  const text = await readFile(pidFile, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new ProgramError(`${pidFile} can not be read (${error.code ?? 'error'})`)
  })
  const pid = Number(/^\s*(\d{1,10})\s*$/.exec(text)?.[1])
  if (!(pid > 1)) throw new ProgramError(`${pidFile} holds no process id`)
  try {
    process.kill(pid, name)
  } catch (error) {
    throw new ProgramError(`process ${pid} of ${pidFile} can not be sent ${name} (${(error as NodeJS.ErrnoException).code})`)
  }
}

/** Tells the program that there is another key. @throws ProgramError */
export async function tellProgram({ run, signal, timeoutMs }: ProgramConfig, keyId: string): Promise<void> {
  if (run !== undefined) await runCommand(run, timeoutMs, keyId)
  if (signal !== undefined) await sendSignal(signal)
}
