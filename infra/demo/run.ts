/** `npm start`: the whole house on this machine, and one rotation under live traffic. */
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { type Stack, startStack } from '../stack/index.ts'
import { type Control, startControl } from './control.ts'
import { takePlace } from './place.ts'
import { createProcesses } from './processes.ts'
import { type DemoReport, printReport } from './report.ts'
import { rotateUnderTraffic } from './traffic.ts'

const USAGE = `npm start -- [--once] [--roll-back] [--json]
  --once       stop everything at the end; exit 0 only when nothing failed
  --roll-back  the API refuses the new key: the rotation rolls back on its own
  --json       print the report as JSON, as the last line`

const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130 } as const
/** npm passes on the Ctrl-C that the terminal has sent to both: within this time two are one. */
const REPEATED_MS = 1_000
/** For servers that are being fetched or started when everything is to stop; the reaper ends what is left. */
const PATIENCE_MS = 10_000

interface Options {
  readonly once: boolean
  readonly rollBack: boolean
  readonly json: boolean
}

/** A path as a person in this directory would write it. */
function shortest(path: string): string {
  const fromHere = relative(process.cwd(), path)
  return fromHere.startsWith('..') ? path : fromHere || '.'
}

const say = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

async function main(options: Options): Promise<number> {
  const interrupted = untilInterrupted()
  const place = await takePlace()
  const shown = shortest(place.directory)
  if (place.taken !== undefined)
    say(
      `another run has ${shortest(place.taken)}; this one keeps its addresses and logs in ${shown}: KEYTURN_STATE=${shown} npx keyturn …`,
    )
  const processes = createProcesses(join(place.directory, 'logs'))
  const stopping = new AbortController()
  let starting: Promise<Stack> | undefined
  let control: Control | undefined

  const stopAll = async (): Promise<void> => {
    control?.close()
    place.leave()
    stopping.abort()
    await processes.stopAll()
    const stopped = starting?.then(
      (stack) => stack.stop(),
      () => {},
    )
    await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS).unref())])
  }
  const work = async (): Promise<{ report: DemoReport; own: Stack['own'] }> => {
    starting = startStack({ services: ['postgres', 'kafka', 'temporal'], signal: stopping.signal })
    // Loaded while the servers start.
    const { startHouse } = await import('./house.ts')
    const local = await startHouse({ stack: starting, processes, refusesNewKeys: options.rollBack })
    place.write(local)
    const report = await rotateUnderTraffic(local, processes, options.rollBack ? 'rolled-back' : 'completed', say)
    return { report, own: (await starting).own }
  }
  try {
    const done = await Promise.race([work(), processes.failed, interrupted])
    if (done === 'interrupted') return EXIT.interrupted
    const { report, own } = done
    printReport(report, say)
    if (!options.once) {
      control = await startControl({ own, processes, note: (line) => void process.stderr.write(`${line}\n`) })
      say(`\nrunning on: ${join(shown, 'local.json')} holds the addresses; Ctrl-C stops everything`)
      if (options.json) say(JSON.stringify(report))
      await Promise.race([processes.failed, control.failed, interrupted])
      return EXIT.done
    }
    await stopAll()
    if (options.json) say(JSON.stringify(report))
    return report.ok ? EXIT.done : EXIT.failed
  } finally {
    await stopAll()
  }
}

/** Resolves with the first signal to stop; the next one ends this process at once, and the reaper what it has started. */
function untilInterrupted(): Promise<'interrupted'> {
  return new Promise((resolve) => {
    let first: number | undefined
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.on(signal, () => {
        first ??= Date.now()
        if (Date.now() - first > REPEATED_MS) process.exit(EXIT.interrupted)
        resolve('interrupted')
      })
    }
  })
}

function readOptions(): Options | undefined {
  const { values } = parseArgs({
    options: {
      once: { type: 'boolean', default: false },
      'roll-back': { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  return values.help ? undefined : { once: values.once, rollBack: values['roll-back'], json: values.json }
}

/** Whatever is still under way by then (a fetch, say) is not waited for. */
const end = (code: number): void => {
  process.stdout.write('', () => process.exit(code))
}
const sentence = (error: unknown): string => (error instanceof Error ? error.message : String(error))

let options: Options | undefined
try {
  options = readOptions()
} catch (error) {
  process.stderr.write(`${sentence(error)}\n\n${USAGE}\n`)
  process.exit(EXIT.usage)
}
if (options === undefined) say(USAGE)
else {
  await main(options).then(end, (error: unknown) => {
    process.stderr.write(`${sentence(error)}\n`)
    end(EXIT.failed)
  })
}
