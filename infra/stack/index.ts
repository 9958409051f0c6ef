/** The local stack: the servers that Keyturn needs, on this machine, for as long as this process runs. */
import { Listr } from 'listr2'
import { guardReady } from './guard.ts'
import { startKafka } from './kafka.ts'
import { startPostgres } from './postgres.ts'
import { type Progress, plainLine, progressOptions } from './progress.ts'
import type { RunningService } from './service.ts'
import { startTemporal } from './temporal.ts'

export type ServiceName = 'postgres' | 'kafka' | 'temporal'

interface Addresses {
  postgres: { readonly postgresUrl: string }
  kafka: { readonly kafkaBrokers: string[] }
  /** `temporalUi` is known only when the server was started here. */
  temporal: { readonly temporalAddress: string; readonly temporalUi?: string }
}

type All<U> = (U extends unknown ? (u: U) => void : never) extends (i: infer I) => void ? I : never

/** What can be done to a server that was started here. */
export type OwnServer = Pick<RunningService, 'directory' | 'halt' | 'resume'>

/** Where the servers are, and those that were started here: `stop` ends them and removes their data; it may be called twice. */
export type Stack<S extends ServiceName = ServiceName> = All<Addresses[S]> & {
  readonly own: Readonly<Partial<Record<ServiceName, OwnServer>>>
  stop(): Promise<void>
}

export interface StackOptions<S extends ServiceName> {
  readonly services: readonly S[]
  /** Whether standard error shows what happens; it does unless told otherwise. */
  readonly progress?: Progress
  /** Gives the start up; what has started by then is stopped. */
  readonly signal?: AbortSignal
}

interface Started {
  readonly addresses: object
  readonly service: RunningService
}

interface Service {
  readonly title: string
  /** The environment variable that names one which runs already. */
  readonly variable: string
  existing(value: string): object
  start(signal: AbortSignal, say: (what: string) => void): Promise<Started>
}

const SERVICES: { readonly [S in ServiceName]: Service } = {
  postgres: {
    title: 'PostgreSQL',
    variable: 'KEYTURN_POSTGRES_URL',
    existing: (postgresUrl): Addresses['postgres'] => ({ postgresUrl }),
    async start(signal) {
      const service = await startPostgres(signal)
      return { addresses: { postgresUrl: service.url } satisfies Addresses['postgres'], service }
    },
  },
  kafka: {
    title: 'Kafka',
    variable: 'KEYTURN_KAFKA_BROKERS',
    existing: (brokers): Addresses['kafka'] => ({ kafkaBrokers: brokers.split(',').map((broker) => broker.trim()) }),
    async start(signal, say) {
      const service = await startKafka(signal, say)
      return { addresses: { kafkaBrokers: service.brokers } satisfies Addresses['kafka'], service }
    },
  },
  temporal: {
    title: 'Temporal',
    variable: 'KEYTURN_TEMPORAL_ADDRESS',
    existing: (temporalAddress): Addresses['temporal'] => ({ temporalAddress }),
    async start(signal, say) {
      const service = await startTemporal(signal, say)
      const addresses: Addresses['temporal'] = { temporalAddress: service.address, temporalUi: service.ui }
      return { addresses, service }
    },
  },
}

/**
 * Starts the servers side by side and waits until each answers. One that an environment variable names is used as it is.
 * When one fails, those that did start are stopped.
 * @throws StackError
 */
export async function startStack<S extends ServiceName>({
  services,
  progress = 'show',
  signal,
}: StackOptions<S>): Promise<Stack<S>> {
  const failed = new AbortController()
  signal?.addEventListener('abort', () => failed.abort(signal.reason))
  const started: RunningService[] = []
  const own: Partial<Record<ServiceName, OwnServer>> = {}
  const addresses: object[] = []
  const errors: unknown[] = []
  const stop = async (): Promise<void> => {
    await Promise.all(started.splice(0).map((service) => service.stop()))
  }

  const tasks = new Listr(
    services.map((name: ServiceName) => {
      const { title, variable, existing, start } = SERVICES[name]
      const given = process.env[variable]
      return {
        title,
        async task(_context: object, task: { title?: string }): Promise<void> {
          const say = (what: string): void => {
            task.title = `${title}: ${what}`
            plainLine(progress, task.title)
          }
          if (given) {
            addresses.push(existing(given))
            say(`already there (${variable})`)
            return
          }
          try {
            const since = Date.now()
            await guardReady()
            const { service, addresses: found } = await start(failed.signal, say)
            started.push(service)
            own[name] = service
            addresses.push(found)
            say(`ready (${((Date.now() - since) / 1000).toFixed(1)} s)`)
          } catch (error) {
            errors.push(error)
            failed.abort()
            throw error
          }
        },
      }
    }),
    progressOptions(progress),
  )
  await tasks.run()
  if (errors.length > 0) {
    await stop()
    throw errors[0]
  }
  return Object.assign({ stop, own }, ...addresses) as Stack<S>
}
