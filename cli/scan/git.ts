/** The system's git, asked through its plumbing: no setting of a repository that is scanned runs a program or calls the network. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { Failure, UsageFailure } from '../failure.ts'

const SETTINGS = ['--no-pager', '--no-replace-objects', '-c', 'core.fsmonitor=false', '-c', 'protocol.allow=never']
const ENVIRONMENT = { GIT_OPTIONAL_LOCKS: '0', GIT_NO_LAZY_FETCH: '1', GIT_TERMINAL_PROMPT: '0', LC_ALL: 'C' }
const LAST_WORDS = 2_000

interface Running {
  readonly stdout: Readable
  /** @throws Failure, in git's words, when it ends badly */
  ended(): Promise<void>
  /** No more of it is wanted. */
  stop(): void
}

export interface GitObject {
  readonly id: string
  readonly type: string
}

export interface ObjectReader {
  /** @returns whether its bytes are wanted */
  begin(object: GitObject): boolean
  write(bytes: Buffer): void
  end(object: GitObject): void
}

export class Git {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  /** @param input what it reads; it gets an end at once without */
  start(args: readonly string[], input?: Readable): Running {
    const child = spawn('git', [...SETTINGS, ...args], {
      cwd: this.#directory,
      env: { ...process.env, ...ENVIRONMENT },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    let words = ''
    let stopped = false
    child.stderr.on('data', (data: Buffer) => (words = (words + data.toString()).slice(-LAST_WORDS)))
    const closed = once(child, 'close') as Promise<[number | null]>
    // Whoever ends first, `ended` tells how.
    closed.catch(() => {})
    if (input === undefined) child.stdin.end()
    else pipeline(input, child.stdin).catch(() => {})
    child.stdin.on('error', () => {})
    return {
      stdout: child.stdout,
      async ended() {
        const [code] = await closed.catch((error: NodeJS.ErrnoException) => {
          const missing = error.code === 'ENOENT'
          throw new Failure(missing ? 'git is missing' : 'git could not be started', missing ? 'Install it.' : error.code)
        })
        if (code !== 0 && !stopped) throw new Failure('git could not do it', words.trim().split('\n').slice(-3).join('\n  '))
      },
      stop() {
        stopped = true
        child.kill()
      },
    }
  }

  /** All that it prints, for short answers. */
  async text(args: readonly string[]): Promise<string> {
    const running = this.start(args)
    const pieces: Buffer[] = []
    for await (const piece of running.stdout as AsyncIterable<Buffer>) pieces.push(piece)
    await running.ended()
    return Buffer.concat(pieces).toString('utf8').trim()
  }

  /**
   * The root of the work tree; undefined in a bare repository.
   * @throws UsageFailure when the directory is in none
   */
  async root(): Promise<string | undefined> {
    try {
      const inside = await this.text(['rev-parse', '--is-inside-work-tree'])
      return inside === 'true' ? await this.text(['rev-parse', '--show-toplevel']) : undefined
    } catch (error) {
      throw new UsageFailure('There is no git repository to scan here', (error as Failure).hint, { cause: error })
    }
  }

  async isShallow(): Promise<boolean> {
    return (await this.text(['rev-parse', '--is-shallow-repository'])) === 'true'
  }

  /** Items of a `-z` output. */
  async *items(running: Running): AsyncGenerator<Buffer> {
    let rest: Buffer = Buffer.alloc(0)
    for await (const piece of running.stdout as AsyncIterable<Buffer>) {
      const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece])
      let start = 0
      for (let at = bytes.indexOf(0); at !== -1; at = bytes.indexOf(0, start)) {
        yield bytes.subarray(start, at)
        start = at + 1
      }
      rest = bytes.subarray(start)
    }
    await running.ended()
  }

  /** Reads the objects that a command lists, one id a line. */
  async readListed(list: readonly string[], reader: ObjectReader): Promise<void> {
    const listing = this.start(list)
    try {
      await this.readObjects(listing.stdout, reader)
    } catch (error) {
      listing.stop()
      throw error
    }
    await listing.ended()
  }

  /**
   * Reads objects, as `git cat-file --batch` prints them: a line with id, type and size, the bytes, a line end.
   * @param ids one a line
   */
  async readObjects(ids: Readable, reader: ObjectReader): Promise<void> {
    const running = this.start(['cat-file', '--batch', '--buffer'], ids)
    let line: Buffer = Buffer.alloc(0)
    let object: GitObject | undefined
    let wanted = false
    let left = 0
    for await (const piece of running.stdout as AsyncIterable<Buffer>) {
      let at = 0
      while (at < piece.length) {
        if (object === undefined) {
          const end = piece.indexOf(0x0a, at)
          line = Buffer.concat([line, piece.subarray(at, end === -1 ? undefined : end)])
          if (end === -1) break
          at = end + 1
          const [id = '', type = '', size = ''] = line.toString('latin1').split(' ')
          line = Buffer.alloc(0)
          if (size === '')
            throw new Failure(`git has no object ${id}`, 'The clone is a partial one, or broken; `git fsck` says more.')
          object = { id, type }
          left = Number(size)
          wanted = reader.begin(object)
        }
        const bytes = piece.subarray(at, at + left)
        if (wanted && bytes.length > 0) reader.write(bytes)
        at += bytes.length
        left -= bytes.length
        if (left === 0 && at < piece.length) {
          at++
          if (wanted) reader.end(object)
          object = undefined
        }
      }
    }
    await running.ended()
  }
}
