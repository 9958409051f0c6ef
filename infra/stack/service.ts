/** Starts one server: on free ports, until it really answers, with its log at hand when it does not. */
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import getPort from 'get-port'
import { StackError } from './errors.ts'
import { type GuardedOptions, type GuardedProcess, runDirectory, spawnGuarded, stopGuarded } from './guard.ts'

const HOST = '127.0.0.1'
const ATTEMPTS = 4
const ASK_AGAIN_MS = 50
const LOG_LINES = 15
const PORT_TAKEN = /address (is )?already in use|EADDRINUSE|BindException|could not create any TCP\/IP sockets/i

export interface ServiceSettings {
  readonly name: string
  /** Of the server's directory and log in the run's directory. */
  readonly slug: string
  /** How many ports it needs. */
  readonly ports: number
  readonly withinMs: number
  /** Makes `directory`, which does not exist yet, and says how to start the server. */
  prepare(
    directory: string,
    ports: readonly number[],
  ): Promise<{ command: string; args: readonly string[]; options?: GuardedOptions }>
  /** Rejects as long as the server does not answer as it should. */
  ask(ports: readonly number[]): Promise<void>
}

export interface RunningService {
  readonly ports: readonly number[]
  /** Where it keeps its data. */
  readonly directory: string
  /** Ends the server; its data stays. */
  halt(): Promise<void>
  /** After `halt`: starts it again on its ports and its data. @throws StackError when it does not answer in time */
  resume(): Promise<void>
  /** Ends the server, and removes its data. */
  stop(): Promise<void>
}

/** @throws StackError when the server ends or does not answer in time; the signal's reason when that comes first */
export async function startService(settings: ServiceSettings, signal: AbortSignal): Promise<RunningService> {
  for (let attempt = 1; ; attempt++) {
    const log = join(runDirectory(), `${settings.slug}-${attempt}.log`)
    const directory = join(runDirectory(), `${settings.slug}-${attempt}`)
    const ports: number[] = []
    while (ports.length < settings.ports) ports.push(await getPort({ host: HOST, reserve: true }))
    const { command, args, options = {} } = await settings.prepare(directory, ports)
    const spawn = (): GuardedProcess => {
      const fd = openSync(log, 'a', 0o600)
      const spawned = spawnGuarded(command, args, { ...options, stdio: ['ignore', fd, fd] })
      closeSync(fd)
      return spawned
    }
    let guarded = spawn()
    const halt = (): Promise<void> => stopGuarded(guarded)
    const stop = async (): Promise<void> => {
      await halt()
      rmSync(directory, { recursive: true, force: true, maxRetries: 5 })
    }
    const resume = async (): Promise<void> => {
      guarded = spawn()
      const flaw = await untilAnswers(settings, guarded, ports, signal)
      if (flaw !== undefined) throw didNotStart(settings, flaw, readFileSync(log, 'utf8'))
    }
    const flaw = await untilAnswers(settings, guarded, ports, signal)
    if (flaw === undefined) return { ports, directory, halt, resume, stop }
    await stop()
    signal.throwIfAborted()
    const text = readFileSync(log, 'utf8')
    if (PORT_TAKEN.test(text) && attempt < ATTEMPTS) continue
    throw didNotStart(settings, flaw, text)
  }
}

function didNotStart({ name }: ServiceSettings, flaw: string, log: string): StackError {
  const last = log
    .trimEnd()
    .split('\n')
    .slice(-LOG_LINES)
    .map((line) => `  ${line}`)
    .join('\n')
  return new StackError(`${name} did not start: ${flaw}. The last lines of its log:\n${last}`)
}

/** @returns why it does not answer, or nothing when it does */
async function untilAnswers(
  { ask, withinMs }: ServiceSettings,
  { ended }: GuardedProcess,
  ports: readonly number[],
  signal: AbortSignal,
): Promise<string | undefined> {
  let end: string | undefined
  void ended.then((how) => {
    end = how
  })
  const giveUp = Date.now() + withinMs
  let last = ''
  while (end === undefined && !signal.aborted) {
    const answers = await ask(ports).then(
      () => true,
      (error: unknown) => {
        last = error instanceof Error ? error.message : String(error)
        return false
      },
    )
    if (answers && end === undefined) return undefined
    if (Date.now() > giveUp) return `it did not answer within ${withinMs / 1000} s (${last})`
    await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS))
  }
  return end === undefined ? 'stopped' : `it ended with ${end}`
}
