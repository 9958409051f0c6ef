/**
 * Where a run of `npm start` keeps its addresses and logs: `.keyturn` or, while another run in the same checkout has that, the
 * first free one of `.keyturn/2`, `.keyturn/3`, … KEYTURN_STATE names another directory than `.keyturn`.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { lock } from 'proper-lockfile'
import { guardReady, removeAtEnd, runDirectory } from '../stack/guard.ts'

export const CHECKOUT_STATE = fileURLToPath(new URL('../../.keyturn', import.meta.url))

const LOCK_RETRY_MS = 100
const LOCK_RETRIES = 300

export interface Place {
  readonly directory: string
  /** The place that another run has, when this one had to make do with the next. */
  readonly taken?: string
  /** Writes down where everything is, for this user alone. */
  write(local: object): void
  /** Removes that, and gives the place up. The logs stay until the next run. */
  leave(): void
}

export async function takePlace(): Promise<Place> {
  const first = resolve(process.env['KEYTURN_STATE'] || CHECKOUT_STATE)
  mkdirSync(first, { recursive: true })
  // By then, what dead runs had left is gone: their directories no longer hold a place.
  await guardReady()
  const directory = await claim(first)
  const local = join(directory, 'local.json')
  // The owner last: from then on the place is another's.
  const leaving = [removeAtEnd(local), removeAtEnd(join(directory, 'owner'))]
  rmSync(local, { force: true })
  return {
    directory,
    ...(directory === first ? {} : { taken: first }),
    write(content) {
      writeFileSync(`${local}.new`, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 })
      renameSync(`${local}.new`, local)
    },
    leave() {
      for (const remove of leaving) remove()
    },
  }
}

/** A place belongs to the run whose directory its file `owner` names, as long as that directory is there. */
async function claim(first: string): Promise<string> {
  const retries = { retries: LOCK_RETRIES, factor: 1, minTimeout: LOCK_RETRY_MS, maxTimeout: LOCK_RETRY_MS }
  const release = await lock(join(first, 'places'), { realpath: false, retries })
  try {
    for (let number = 1; ; number++) {
      const directory = number === 1 ? first : join(first, String(number))
      const owner = join(directory, 'owner')
      if (existsSync(owner) && existsSync(readFileSync(owner, 'utf8'))) continue
      mkdirSync(directory, { recursive: true })
      writeFileSync(owner, runDirectory())
      return directory
    }
  } finally {
    await release()
  }
}
