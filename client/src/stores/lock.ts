/**
 * A lock among the processes that share a directory, which a kill leaves open. Each contender makes a file of its own, with its name in it, and lists the
 * directory: it has the lock when nobody else who lives has a file there. Of two, whoever has made its file later sees the other's, so both never have it.
 * Files of the dead count for nothing, and their names never come again: no matter who removes them, and when.
 */
import { createHash, randomBytes } from 'node:crypto'
import { readdir, readFile, readlink, stat, unlink, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { StoreError } from '../store.ts'

/** Of a process that can not be seen from here, a file that is older belongs to a dead one: nobody holds the lock for long. */
const UNSEEN_MS = 30_000
const PATIENCE_MS = 15_000
const RETRY_MS = { shortest: 2, longest: 40 }

const contents = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')

/** Where process ids mean the same: a boot of a machine and a namespace of it. */
const space: Promise<string> = Promise.all([
  contents('/proc/sys/kernel/random/boot_id'),
  readlink('/proc/self/ns/pid').catch(() => ''),
]).then(([boot, namespace]) =>
  createHash('sha256')
    .update(boot === '' ? hostname() : boot + namespace)
    .digest('hex')
    .slice(0, 12),
)

/** State and start of a process (proc(5): fields 3 and 22), which tell it from a later one with its id. */
async function lifeOf(pid: number): Promise<{ state: string; start: string } | undefined> {
  const text = await contents(`/proc/${pid}/stat`)
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [state, start] = [fields[0], fields[19]]
  return text === '' || state === undefined || start === undefined ? undefined : { state, start }
}

const own = lifeOf(process.pid).then((life) => life?.start ?? '0')

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

const NAME = /^\.(.+)\.lock-[0-9a-z]+-([0-9a-f]+)-(\d+)-(\d+)-[0-9a-f]+$/

interface Contender {
  readonly file: string
  readonly space: string
  readonly pid: number
  readonly start: string
}

async function contenders(directory: string, name: string): Promise<Contender[]> {
  const found: Contender[] = []
  for (const file of await readdir(directory)) {
    const [, of, where = '', pid, start = ''] = NAME.exec(file) ?? []
    if (of === name) found.push({ file, space: where, pid: Number(pid), start })
  }
  return found
}

async function isAlive(directory: string, { file, space: where, pid, start }: Contender): Promise<boolean> {
  if (where === (await space)) {
    if (!exists(pid)) return false
    const life = await lifeOf(pid)
    // A killed process that nobody has waited for is still listed.
    if (life !== undefined) return life.start === start && life.state !== 'Z' && life.state !== 'X'
  }
  const { mtimeMs } = await stat(join(directory, file)).catch(() => ({ mtimeMs: Number.NEGATIVE_INFINITY }))
  return Date.now() - mtimeMs < UNSEEN_MS
}

/** The files of others who live; those of the dead are removed. */
async function living(directory: string, name: string, mine: string): Promise<string[]> {
  const found: string[] = []
  for (const other of await contenders(directory, name)) {
    if (other.file === mine) continue
    if (await isAlive(directory, other)) found.push(other.file)
    else await unlink(join(directory, other.file)).catch(() => undefined)
  }
  return found
}

/**
 * Runs something while no other process or call does so for this path.
 * @throws StoreError unreachable, when others do not let it have its turn
 */
export async function withLock<T>(path: string, run: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  const [directory, name] = [dirname(path), basename(path)]
  // Who has come first goes first.
  const ticket = Date.now().toString(36).padStart(9, '0')
  const until = Date.now() + PATIENCE_MS
  const file = `.${name}.lock-${ticket}-${await space}-${process.pid}-${await own}-${randomBytes(8).toString('hex')}`
  const mine = join(directory, file)
  const leave = (): Promise<void> => unlink(mine).catch(() => undefined)
  let standing = false
  try {
    for (let wait = RETRY_MS.shortest; ; wait = Math.min(wait * 2, RETRY_MS.longest)) {
      signal?.throwIfAborted()
      let others = await living(directory, name, file)
      // Nobody stands up while somebody stands: whoever does waits for those alone who did so at the same time.
      if (!standing && others.length === 0) {
        await writeFile(mine, '', { mode: 0o600, flag: 'wx' })
        standing = true
        others = await living(directory, name, file)
      }
      if (standing && others.length === 0) return await run()
      // Of these the first stays, or they would wait for each other.
      if (standing && others.some((other) => other < file)) {
        await leave()
        standing = false
      }
      if (Date.now() > until) {
        throw new StoreError('unreachable', `${path}: other processes do not give the lock free (${directory}/.${name}.lock-…).`)
      }
      await sleep(wait * (0.5 + Math.random()))
    }
  } finally {
    if (standing) await leave()
  }
}
