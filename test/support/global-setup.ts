/** Starts the servers once for all test files. KEYTURN_TEST_SERVERS=none leaves them out, for files that need none. */
import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import type { TestProject } from 'vitest/node'
import { startStack } from '../../infra/stack/index.ts'
import { timeSkippingServer } from '../../infra/stack/temporal.ts'
import { bundleWorkflows } from '../../infra/workflow-bundle.ts'
import { dropDatabases } from './databases.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** A name of this run, for what outlives it on servers that were there before. */
    runName: string
    /** An empty database; test files have their own from `createDatabase`. */
    postgresUrl: string
    kafkaBrokers: string[]
    temporalAddress: string
    /** Program that starts a server which skips time. */
    timeSkippingServer: string
    /** File with the bundled workflows. */
    workflowBundle: string
  }
}

export default async function setup({ provide }: TestProject): Promise<(() => Promise<void>) | undefined> {
  if (process.env['KEYTURN_TEST_SERVERS'] === 'none') return undefined
  const say = (what: string): void => {
    process.stderr.write(`Tests: ${what}\n`)
  }
  const [stack, skipping, bundle] = await Promise.allSettled([
    startStack({ services: ['postgres', 'kafka', 'temporal'] }),
    timeSkippingServer(say),
    bundleWorkflows(fileURLToPath(new URL('../../.keyturn', import.meta.url))),
  ])
  const failure = [stack, skipping, bundle].find((result) => result.status === 'rejected')
  if (stack.status !== 'fulfilled' || skipping.status !== 'fulfilled' || bundle.status !== 'fulfilled') {
    if (stack.status === 'fulfilled') await stack.value.stop()
    throw failure?.reason
  }
  const { postgresUrl, kafkaBrokers, temporalAddress, stop } = stack.value
  const runName = randomBytes(4).toString('hex')
  provide('runName', runName)
  provide('postgresUrl', postgresUrl)
  provide('kafkaBrokers', kafkaBrokers)
  provide('temporalAddress', temporalAddress)
  provide('timeSkippingServer', skipping.value)
  provide('workflowBundle', bundle.value)
  return async () => {
    // Servers of this run take their databases with them.
    if (process.env['KEYTURN_POSTGRES_URL']) await dropDatabases(postgresUrl, runName)
    await stop()
  }
}
