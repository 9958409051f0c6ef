/** An agent in this process, and the place where its program lives. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { type AgentEvent, type AgentOptions, readAgentConfig, runAgent } from '../../../client/src/agent.ts'
import { memoryStore, type Store } from '../../../client/src/index.ts'
import { eventually } from '../../support/house.ts'

export interface RunningAgent {
  readonly events: AgentEvent[]
  readonly store: Store
  /** Waits for the n-th event of a kind. */
  said(type: AgentEvent['type'], n?: number): Promise<AgentEvent>
  stop(): Promise<void>
}

interface AgentPlace {
  readonly directory: string
  readonly keyFile: string
  /** Runs `script` when there is another key. */
  config(script: string, check?: object, more?: object): AgentOptions['config']
}

export function agentPlace(api: string): AgentPlace {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-agent-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  const keyFile = join(directory, 'key')
  return {
    directory,
    keyFile,
    config(script, check = { used: '30s' }, more = {}) {
      const path = join(directory, 'reload')
      writeFileSync(path, `#!/bin/sh\ncd ${directory}\n${script}\n`)
      chmodSync(path, 0o755)
      return readAgentConfig({
        api,
        store: { file: join(directory, 'store.json') },
        files: [{ path: keyFile, mode: '0640' }],
        program: { run: [path] },
        check,
        interval: '100ms',
        ...more,
      })
    },
  }
}

export function startAgent(options: Omit<AgentOptions, 'tell' | 'store'> & { store?: Store }): RunningAgent {
  const events: AgentEvent[] = []
  const { store = memoryStore() } = options
  const ending = new AbortController()
  const tell = (event: AgentEvent): void => void events.push(event)
  const ended = runAgent({ againMs: { shortest: 200, longest: 400 }, ...options, store, tell }, ending.signal)
  ended.catch(() => undefined)
  const stop = async (): Promise<void> => {
    ending.abort()
    await ended
  }
  onTestFinished(stop)
  return {
    events,
    store,
    stop,
    said: (type, n = 1) =>
      eventually(
        () => events.filter((event) => event.type === type)[n - 1],
        () => `event ${n} ${type}; there were ${JSON.stringify(events)}`,
      ),
  }
}

export const keyIn = (file: string): string => readFileSync(file, 'utf8')

/** Uses whatever key the file holds, as a program would that reads it for each request. */
export function usedFrom(keyFile: string, use: (key: string) => Promise<unknown>): void {
  let running = true
  const done = (async () => {
    while (running) {
      if (existsSync(keyFile)) await use(keyIn(keyFile)).catch(() => undefined)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  })()
  onTestFinished(async () => {
    running = false
    await done
  })
}
