/** `keyturn agent`: follows the rotations of a key for a program that can not take the library. */
import { readFile } from 'node:fs/promises'
import type { AgentEvent } from '@keyturn/client/agent'
import type { Command } from 'commander'
import { command } from './context.ts'
import { Failure, UsageFailure } from './failure.ts'

const ABOUT = `
It asks the API now and then, claims the new key, stores it, tells the program, and sees whether the program comes up with it; if not, it puts the old
key back and tries again later. It writes a line of JSON for what happens, never a key. SIGTERM ends it when what it is at is done; a second one at once.
The configuration is described in docs/client-guide.md.`

export const agentCommand = (): Command =>
  command('agent', 'switch a program over to each new key, which knows nothing of rotations')
    .requiredOption('--config <file>', 'YAML or JSON')
    .option('--check-config', 'only say whether the configuration can be used')
    .addHelpText('after', ABOUT)
    .action(agent)

async function agent({ config: file, checkConfig }: { config: string; checkConfig?: true }): Promise<void> {
  const [{ AgentConfigError, openStore, readAgentConfig, readFirst, runAgent }, { parse }] = await Promise.all([
    import('@keyturn/client/agent'),
    import('yaml'),
  ])
  const text = await read(file)
  const said = <T>(work: () => T): T => {
    try {
      return work()
    } catch (error) {
      if (error instanceof AgentConfigError) throw new UsageFailure(`${file}: ${error.message}`)
      throw new UsageFailure(`${file} is not YAML`)
    }
  }
  const config = said(() => readAgentConfig(parse(text)))
  const store = await openStore(config)
  if (checkConfig === true) return
  const { firstKeyFile, firstClaimFile } = config
  const [key, claim = process.env['KEYTURN_FIRST_CLAIM'] || undefined] = await Promise.all(
    [firstKeyFile, firstClaimFile].map((path) => (path === undefined ? undefined : maybeRead(path))),
  )
  const first = said(() => readFirst(config, { key, claim }))
  const ending = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (ending.signal.aborted) process.exit(1)
      ending.abort(new Error('asked to end'))
    })
  }
  const tell = (event: AgentEvent): void => {
    process.stdout.write(`${JSON.stringify({ at: new Date().toISOString(), ...event })}\n`)
  }
  await runAgent({ config, store, tell, ...first }, ending.signal).catch((error: Error) => {
    // What these say never holds a key; of others, the name is enough.
    throw error.name === 'StoreError' || error.name === 'ClaimError' ? new Failure(error.message) : error
  })
}

async function read(file: string): Promise<string> {
  const text = await maybeRead(file)
  if (text === undefined) throw new UsageFailure(`${file} is not there`)
  return text
}

/** A first key or claim that has been used may be gone. */
const maybeRead = (file: string): Promise<string | undefined> =>
  readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw new UsageFailure(`${file} can not be read (${error.code})`)
  })
