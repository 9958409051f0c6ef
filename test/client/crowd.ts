/** Many processes of one client, which share a store. */

import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { readDocument, type StoredCredential } from '@keyturn/client'
import { build } from 'esbuild'
import { type GuardedProcess, spawnGuarded, stopGuarded } from '../../infra/stack/guard.ts'
import type { Job, Said } from './program.ts'

/** Each one file, which starts many times as fast as its sources. */
async function bundle(directory: string): Promise<void> {
  await build({
    entryPoints: ['program', 'reader', 'echo'].map((name) => fileURLToPath(new URL(`./${name}.ts`, import.meta.url))),
    outdir: directory,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    logLevel: 'error',
  })
}

const startNode = (file: string, env: Readonly<Record<string, string>> = {}): GuardedProcess =>
  spawnGuarded(process.execPath, [file], { env: { PATH: process.env['PATH'], ...env }, stdio: ['ignore', 'pipe', 'inherit'] })

function linesOf({ child: { stdout } }: GuardedProcess): Interface {
  if (stdout === null) throw new Error('no standard output')
  return createInterface({ input: stdout })
}

/** What crowds need: their programs, and an API to call. */
export interface CrowdPlace {
  readonly directory: string
  readonly upstream: string
  close(): Promise<void>
}

export async function openCrowdPlace(): Promise<CrowdPlace> {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-crowd-'))
  await bundle(directory)
  const echo = startNode(join(directory, 'echo.mjs'))
  const [upstream] = (await once(linesOf(echo), 'line')) as [string]
  return {
    directory,
    upstream,
    async close() {
      await stopGuarded(echo)
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

export class Crowd {
  readonly store: string
  readonly failures: string[] = []
  requests = 0
  readonly events: string[] = []
  /** Which key each process was heard of with, last. */
  readonly uses = new Map<number, string>()
  /** ms since the epoch. */
  readonly usesSince = new Map<number, number>()
  private readonly place: CrowdPlace
  private readonly job: Job
  private readonly members = new Map<number, GuardedProcess>()

  constructor(place: CrowdPlace, size: number, job: Omit<Job, 'store'>) {
    this.place = place
    this.store = join(mkdtempSync(join(place.directory, 'store-')), 'key.json')
    this.job = { ...job, store: this.store }
    for (let name = 0; name < size; name++) this.start(name)
  }

  private start(name: number): void {
    this.uses.delete(name)
    const program = this.job.keyFile === undefined ? 'program' : 'reader'
    const member = startNode(join(this.place.directory, `${program}.mjs`), { JOB: JSON.stringify(this.job) })
    this.members.set(name, member)
    linesOf(member).on('line', (line) => this.hear(name, JSON.parse(line) as Said))
  }

  private hear(name: number, said: Said): void {
    if (said.says === 'failed') this.failures.push(`${name}: ${said.what}`)
    else if (said.says === 'requests') this.requests += said.count
    else if (said.says === 'uses') {
      this.uses.set(name, said.keyId)
      this.usesSince.set(name, said.at)
    } else this.events.push(`${name}: ${said.event}`)
  }

  /** SIGKILL, and started anew at once. */
  async kill(name: number): Promise<void> {
    const member = this.members.get(name)
    member?.child.kill('SIGKILL')
    await member?.ended
    this.start(name)
  }

  /** How many use this key, of those that run. */
  using(keyId: string): number {
    return [...this.uses.values()].filter((used) => used === keyId).length
  }

  get stored(): StoredCredential | undefined {
    try {
      const value = readDocument(readFileSync(this.store, 'utf8'), this.store)
      return value.current === undefined ? undefined : value
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  /** Waits for something that the members say. */
  async until(holds: () => boolean, withinMs = 60_000): Promise<void> {
    const giveUp = Date.now() + withinMs
    while (!holds()) {
      if (Date.now() > giveUp) throw new Error(`the crowd did not come to it: ${this.report()}`)
      await pause(10)
    }
  }

  /** For messages: nothing of it is a secret. */
  report(): string {
    const { current, previous, pending, refused } = this.stored ?? {}
    const store = { current: current?.keyId, previous: previous?.keyId, pending: pending?.since, refused }
    return JSON.stringify({ store, uses: [...this.uses], failures: this.failures.slice(0, 5), events: this.events.slice(-40) })
  }

  async stop(): Promise<void> {
    await Promise.all([...this.members.values()].map(stopGuarded))
  }
}
