/**
 * Ends what a run has started when the run itself is gone, however it went. One such process per run: it holds a pipe from the
 * run, learns there of each process group, and acts when the pipe closes. Plain JavaScript, so that it is there at once.
 *
 *   node reaper.mjs <base> <run id> <pid of the run>
 *
 * `<base>/<run id>` is the run's directory. `run.json` in it names the run's processes, so that a later run's reaper can clear
 * up where this one was killed too. A pid alone proves nothing, as pids are used again: with its start time it does.
 */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'

/**
 * @typedef {{ pid: number, start: string }} Identity
 * @typedef {{ pid: number, parent: number, group: number, start: string }} Process
 * @typedef {{ machine: string, id: string, owner: Identity, reaper: Identity, groups: (Identity & { signal: NodeJS.Signals })[] }} Run
 */

const PATIENCE_MS = 5_000
const LOOK_AGAIN_MS = 100
/** A run of another machine or container that shares the directory can't be looked at: it is left alone this long. */
const FOREIGN_AFTER_MS = 7 * 86_400_000
/** A run's directory is there a moment before its record. */
const RECORD_AFTER_MS = 600_000

const [base = '', id = '', ownerPid = ''] = process.argv.slice(2)
const onLinux = process.platform === 'linux'

/** @param {string} path */
const read = (path) => {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

/** Pids mean something only together with this. */
function thisMachine() {
  if (!onLinux) return hostname()
  return `${read('/proc/sys/kernel/random/boot_id').trim()} ${readlinkSync('/proc/self/ns/pid')}`
}

/** Every live process. @returns {Map<number, Process>} */
function allProcesses() {
  const found = new Map()
  if (!onLinux) {
    const lines = execFileSync('ps', ['-axo', 'pid=,ppid=,pgid=,stat=,lstart='], { encoding: 'utf8' }).split('\n')
    for (const line of lines) {
      const [pid, parent, group, state, ...start] = line.trim().split(/\s+/)
      if (state === undefined || state.startsWith('Z')) continue
      found.set(Number(pid), { pid: Number(pid), parent: Number(parent), group: Number(group), start: start.join(' ') })
    }
    return found
  }
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const stat = read(`/proc/${name}/stat`)
    // The second field is the program's name in brackets and may hold anything.
    const [state, parent, group, ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (stat === '' || state === 'Z' || state === 'X') continue
    found.set(Number(name), { pid: Number(name), parent: Number(parent), group: Number(group), start: rest[16] ?? '' })
  }
  return found
}

/** @param {Map<number, Process>} processes @param {Identity} identity */
const isAlive = (processes, { pid, start }) => processes.get(pid)?.start === start

/** Whether the run's mark is in the environment that a process was started with. @param {number} pid @param {string} run */
const isMarked = (pid, run) => onLinux && `\0${read(`/proc/${pid}/environ`)}`.includes(`\0KEYTURN_RUN=${run}\0`)

/**
 * @param {number} pid negative: the group
 * @param {NodeJS.Signals} signal
 */
function send(pid, signal) {
  try {
    process.kill(pid, signal)
  } catch {
    // Gone already.
  }
}

/** Ends all that belongs to a run, first politely. @param {Run} run */
async function endProcesses(run) {
  const processes = allProcesses()
  /** @type {Map<number, string>} pid → start time */
  const ours = new Map()
  const leaders = run.groups.filter((group) => isAlive(processes, group))
  const groups = new Set(leaders.map(({ pid }) => pid))
  for (const { pid, group, start } of processes.values()) if (groups.has(group)) ours.set(pid, start)
  // PostgreSQL's processes leave their parent's group and overwrite their environment: hence the children's children.
  const addFamily = (/** @type {Map<number, Process>} */ all) => {
    for (let before = -1; before !== ours.size; ) {
      before = ours.size
      for (const { pid, parent, start } of all.values()) {
        const known = ours.get(parent)
        if (known !== undefined && known === all.get(parent)?.start && pid !== process.pid) ours.set(pid, start)
      }
    }
  }
  const addMarked = (/** @type {Map<number, Process>} */ all) => {
    for (const { pid, start } of all.values()) {
      if (pid === process.pid || ours.get(pid) === start || !isMarked(pid, run.id)) continue
      ours.set(pid, start)
      send(pid, 'SIGTERM')
    }
  }
  addFamily(processes)
  for (const { pid, signal } of leaders) send(-pid, signal)
  addMarked(processes)
  const remaining = () => {
    const all = allProcesses()
    addFamily(all)
    addMarked(all)
    return [...ours].flatMap(([pid, start]) => (isAlive(all, { pid, start }) ? [pid] : []))
  }
  const killAt = Date.now() + PATIENCE_MS
  for (let left = remaining(); left.length > 0 && Date.now() < killAt + PATIENCE_MS; left = remaining()) {
    if (Date.now() > killAt) for (const pid of left) send(pid, 'SIGKILL')
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS))
  }
}

/** @param {string} directory */
const remove = (directory) => rmSync(directory, { recursive: true, force: true, maxRetries: 5 })

/** What runs have left of which nobody is alive. @param {string} machine */
async function clearLeftovers(machine) {
  const processes = allProcesses()
  await Promise.all(
    readdirSync(base).map(async (name) => {
      if (!name.startsWith('run-') || name === id) return
      const directory = join(base, name)
      try {
        const record = join(directory, 'run.json')
        const text = read(record)
        if (text === '') {
          if (Date.now() - statSync(directory).mtimeMs > RECORD_AFTER_MS) remove(directory)
          return
        }
        /** @type {Run} */
        const run = JSON.parse(text)
        if (run.machine !== machine) {
          if (Date.now() - statSync(record).mtimeMs > FOREIGN_AFTER_MS) remove(directory)
          return
        }
        if (run.id !== basename(directory) || isAlive(processes, run.owner) || isAlive(processes, run.reaper)) return
        await endProcesses(run)
        remove(directory)
      } catch {
        // Another run is clearing it as well.
      }
    }),
  )
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {})

const directory = join(base, id)
const atStart = allProcesses()
/** @param {number} pid @returns {Identity} */
const identify = (pid, all = allProcesses()) => ({ pid, start: all.get(pid)?.start ?? 'gone' })
/** @type {Run} */
const run = {
  machine: thisMachine(),
  id,
  owner: identify(Number(ownerPid), atStart),
  reaper: identify(process.pid, atStart),
  groups: [],
}

/** What the run has left elsewhere. @type {Set<string>} */
const files = new Set()

function writeRecord() {
  try {
    writeFileSync(join(directory, 'run.json.new'), JSON.stringify(run), { mode: 0o600 })
    renameSync(join(directory, 'run.json.new'), join(directory, 'run.json'))
  } catch {
    // The directory is gone or the disk is full: the pipe still works.
  }
}
writeRecord()

/** @type {{ on(event: 'line', then: (line: string) => void): void, on(event: 'close', then: () => void): void }} */
const orders = createInterface({ input: process.stdin })
orders.on('line', (line) => {
  const order = JSON.parse(line)
  if (order.add !== undefined) run.groups.push({ ...identify(order.add), signal: order.signal })
  if (order.gone !== undefined) run.groups = run.groups.filter(({ pid }) => pid !== order.gone)
  if (order.remove !== undefined) files.add(order.remove)
  if (order.keep !== undefined) files.delete(order.keep)
  writeRecord()
})
orders.on('close', async () => {
  await endProcesses(run)
  // Before the directory: as long as that is there, the files are this run's.
  for (const file of files) rmSync(file, { force: true })
  remove(directory)
  process.exit(0)
})

process.stdout.on('error', () => {})
await clearLeftovers(run.machine)
process.stdout.write('ready\n')
