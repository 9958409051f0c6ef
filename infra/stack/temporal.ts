/** Temporal: the development server with its web page, and the test server that skips time. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SEARCH_ATTRIBUTES } from '@keyturn/contract/rotation'
import { Connection } from '@temporalio/client'
import { cached } from './cache.ts'
import { fetchMaven, programOf } from './fetch.ts'
import { type RunningService, startService } from './service.ts'
import { findJava } from './tools.ts'
import { cacheName, VERSIONS } from './versions.ts'

const INSTEAD = 'put the command temporal on the PATH, or set KEYTURN_TEMPORAL_ADDRESS to a Temporal that runs already'
const INSTEAD_OF_SKIPPING = 'set KEYTURN_TIME_SKIPPING_SERVER to the path of a Temporal test server'
const WITHIN_MS = 30_000
const CONNECT_MS = 5_000
/** A port that another server took between choice and start shows by then: ours has ended. */
const SETTLED_MS = 200

const COMMAND = { program: 'temporal', title: "Temporal's command", slug: 'temporal', instead: INSTEAD }

/** @param say called with what takes time */
export async function startTemporal(
  signal: AbortSignal,
  say: (what: string) => void,
): Promise<RunningService & { address: string; ui: string }> {
  const command = await programOf(VERSIONS.temporal, COMMAND, say)
  signal.throwIfAborted()
  say('starting')
  const service = await startService(
    {
      name: 'Temporal',
      slug: 'temporal',
      ports: 4,
      withinMs: WITHIN_MS,
      async prepare(directory, [port, ui, http, metrics]) {
        mkdirSync(directory)
        const options = {
          ip: '127.0.0.1',
          port,
          'ui-port': ui,
          'http-port': http,
          'metrics-port': metrics,
          'log-level': 'warn',
          'db-filename': join(directory, 'temporal.db'),
        }
        const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
        for (const pragma of ['journal_mode=WAL', 'synchronous=OFF']) args.push('--sqlite-pragma', pragma)
        for (const attribute of SEARCH_ATTRIBUTES) args.push('--search-attribute', `${attribute}=Keyword`)
        return { command, args: ['server', 'start-dev', '--ui-disable-news-fetch', ...args], options: { cwd: directory } }
      },
      ask: ([port = 0]) => askTemporal(`127.0.0.1:${port}`),
    },
    signal,
  )
  const [port, ui] = service.ports
  return { ...service, address: `127.0.0.1:${port}`, ui: `http://127.0.0.1:${ui}` }
}

async function askTemporal(address: string): Promise<void> {
  const connection = await Connection.connect({ address, connectTimeout: CONNECT_MS })
  try {
    await connection.workflowService.describeNamespace({ namespace: 'default' })
    await new Promise((resolve) => setTimeout(resolve, SETTLED_MS))
    await connection.workflowService.describeNamespace({ namespace: 'default' })
  } finally {
    await connection.close()
  }
}

/** The program that starts a time-skipping server. Fetched once. */
export async function timeSkippingServer(say: (what: string) => void = () => {}): Promise<string> {
  const given = process.env['KEYTURN_TIME_SKIPPING_SERVER']
  if (given) return given
  await findJava(INSTEAD_OF_SKIPPING)
  const { artifacts, version, megabytes } = VERSIONS.timeSkippingServer
  const directory = await cached(
    cacheName('temporal-test-server', VERSIONS.timeSkippingServer),
    async (part) => {
      say(`fetching Temporal's test server ${version} with Maven, ${megabytes} MB, once`)
      await fetchMaven(part, artifacts, INSTEAD_OF_SKIPPING)
      const script = join(part, 'temporal-test-server')
      writeFileSync(script, TEST_SERVER_SCRIPT)
      chmodSync(script, 0o755)
    },
    () => say("waiting for another run that fetches Temporal's test server"),
  )
  return join(directory, 'temporal-test-server')
}

/** Starts a time-skipping server of the program's. The testing library would give it five seconds, too few on a busy machine. */
export async function startTimeSkippingServer(program: string): Promise<RunningService & { address: string }> {
  const service = await startService(
    {
      name: "Temporal's test server",
      slug: 'temporal-test-server',
      ports: 1,
      withinMs: 2 * WITHIN_MS,
      prepare: async (_directory, [port]) => ({ command: program, args: [String(port)] }),
      async ask([port = 0]) {
        const connection = await Connection.connect({ address: `127.0.0.1:${port}`, connectTimeout: CONNECT_MS })
        await connection.close()
      },
    },
    new AbortController().signal,
  )
  return { ...service, address: `127.0.0.1:${service.ports[0]}` }
}

const TEST_SERVER_SCRIPT = `#!/bin/sh
jars=$(dirname "$0")/jars
exec "\${JAVA_HOME:+$JAVA_HOME/bin/}java" -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \\
  -cp "$jars/*" io.temporal.testserver.TestServer "$@"
`
