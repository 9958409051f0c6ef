/** What all our processes share: configuration, waiting for servers, signals, and how they end. */
import { pathToFileURL } from 'node:url'
import { ConfigError, type ConfigOf, type ConfigSection, loadConfig } from '../infra/config.ts'
import { withUnwrappedKeks } from '../infra/kek.ts'
import { createLog, type Log } from '../infra/log.ts'
import { type NeededServers, ServerMissing, waitForServers } from './servers.ts'

export interface RunningProcess {
  /** Finishes what is under way and releases everything. */
  stop(): Promise<void>
  /** Rejects when the process can not go on by itself. */
  readonly stopped?: Promise<void>
}

/** Whether this module is the program, and not imported by one. */
export const isProgram = (moduleUrl: string): boolean =>
  process.argv[1] !== undefined && moduleUrl === pathToFileURL(process.argv[1]).href

/**
 * Runs a process until it is told to stop. SIGTERM or SIGINT stops it in good order and with exit code 0; a second one kills
 * it. Whatever goes wrong at the start is said in a sentence, and ends it with exit code 1.
 * @param name what the log calls it
 * @param sections the configuration that it needs
 * @param needs the servers that are waited for: all that are configured, unless it can begin without some
 */
export async function runProcess<S extends ConfigSection>(
  name: string,
  sections: readonly S[],
  start: (config: ConfigOf<S>, log: Log) => Promise<RunningProcess>,
  needs: (config: ConfigOf<S>) => NeededServers = (config) => config as NeededServers,
): Promise<void> {
  let config: ConfigOf<S>
  try {
    const env = (sections as readonly ConfigSection[]).includes('kek') ? await withUnwrappedKeks(process.env) : process.env
    config = loadConfig(env, sections)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    return giveUp(error.message)
  }
  const common: ConfigOf<never> = config
  const log = createLog(name, common.logLevel)
  const signalled = firstSignal()
  process.on('unhandledRejection', (error) => fail(log, error))
  process.on('uncaughtException', (error) => fail(log, error))
  let running: RunningProcess | undefined
  // Until it runs there is nothing to finish.
  signalled.then(() => running ?? process.exit(0)).catch(() => {})
  try {
    await waitForServers(needs(config), common.startupWaitMs, log)
    running = await start(config, log)
    log.info('running')
  } catch (error) {
    if (error instanceof ServerMissing || error instanceof ConfigError) return giveUp(error.message)
    return fail(log, error)
  }
  running.stopped?.catch((error: unknown) => fail(log, error))
  const signal = await signalled
  log.info({ signal }, 'stopping')
  await running.stop()
  log.info('stopped')
  process.exit(0)
}

/** Resolves with the first signal to stop; the second one ends the process on the spot. */
function firstSignal(): Promise<string> {
  return new Promise((resolve) => {
    let heard = false
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        if (heard) process.exit(1)
        heard = true
        resolve(signal)
      })
    }
  })
}

function giveUp(sentence: string): never {
  process.stderr.write(`${sentence}\n`)
  process.exit(1)
}

function fail(log: Log, error: unknown): never {
  log.fatal({ err: error }, 'the process can not go on')
  process.exit(1)
}
