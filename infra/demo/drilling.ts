/** What a drill does to this run, and how it is taken back. */
import { execFileSync } from 'node:child_process'
import { renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { OwnServer, ServiceName, Stack } from '../stack/index.ts'
import type { Order } from './orders.ts'
import type { Processes } from './processes.ts'

export interface ControlOptions {
  readonly own: Stack['own']
  readonly processes: Processes
  /** Tells whoever watches this run. */
  readonly note: (line: string) => void
}

export interface Drilling {
  obey(order: Order): Promise<void>
  putBack(): Promise<void>
}

const SERVERS = {
  postgres: { title: 'PostgreSQL', variable: 'KEYTURN_POSTGRES_URL' },
  kafka: { title: 'Kafka', variable: 'KEYTURN_KAFKA_BROKERS' },
  temporal: { title: 'Temporal', variable: 'KEYTURN_TEMPORAL_ADDRESS' },
} as const satisfies Record<ServiceName, object>
const DATA = 'the data of PostgreSQL'

export function createDrilling({ own, processes, note }: ControlOptions): Drilling {
  /** What takes something back, by what it was done to; the latest is taken back first. */
  const undo = new Map<string, () => Promise<void>>()
  async function takeBack(name: string): Promise<void> {
    const back = undo.get(name)
    undo.delete(name)
    await back?.()
  }

  function owned(server: ServiceName): OwnServer {
    const found = own[server]
    if (found !== undefined) return found
    const { title, variable } = SERVERS[server]
    throw new Error(`${title} was there before \`npm start\` (${variable}): no drill touches it`)
  }
  async function stop(server: ServiceName): Promise<void> {
    const { halt, resume } = owned(server)
    if (undo.has(server)) return
    const { title } = SERVERS[server]
    undo.set(server, async () => {
      await resume()
      note(`${title} runs again`)
    })
    note(`a drill stops ${title}`)
    await halt()
  }
  /** PostgreSQL copies no data of its own here; while it is stopped, its files are a backup. */
  async function whileStopped(work: (paths: { data: string; backup: string; before: string }) => void): Promise<void> {
    const { directory } = owned('postgres')
    await stop('postgres')
    work({ data: join(directory, 'data'), backup: join(directory, 'backup'), before: join(directory, 'before') })
    await takeBack('postgres')
  }
  const remove = (path: string): void => rmSync(path, { recursive: true, force: true })

  async function obey(order: Order): Promise<void> {
    switch (order.do) {
      case 'begin':
        for (const server of order.servers) owned(server)
        return
      case 'stop':
        return stop(order.server)
      case 'start':
        return takeBack(order.server)
      case 'back-up':
        return whileStopped(({ data, backup }) => {
          remove(backup)
          execFileSync('cp', ['-a', data, backup])
        })
      case 'restore':
        return whileStopped(({ data, backup, before }) => {
          remove(before)
          renameSync(data, before)
          undo.set(DATA, () =>
            whileStopped(() => {
              remove(data)
              renameSync(before, data)
            }),
          )
          renameSync(backup, data)
        })
      case 'restart': {
        const back = await processes.restart(order.process, order.variables)
        const name = `process ${order.process}`
        if (!undo.has(name)) undo.set(name, back)
        return
      }
      case 'keep':
        for (const name of undo.keys()) if (!(name in SERVERS)) undo.delete(name)
        return
      case 'end':
        return putBack()
    }
  }
  async function putBack(): Promise<void> {
    for (const name of [...undo.keys()].reverse()) await takeBack(name)
  }
  return { obey, putBack }
}
