/** What is fetched once per user: complete or not there, and fetched by one process at a time. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { lock } from 'proper-lockfile'

const LOCK_STALE_MS = 20_000
const LOCK_RETRY_MS = 500
/** A slow line takes long for 45 MB: 30 minutes. */
const LOCK_RETRIES = 3_600

export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  if (env['KEYTURN_CACHE']) return resolve(env['KEYTURN_CACHE'])
  return join(env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'keyturn')
}

/**
 * The directory `name` of the cache. When it is not there, `fetch` fills a directory that takes its place when it is complete.
 * @param waiting called when another process is at it
 */
export async function cached(name: string, fetch: (directory: string) => Promise<void>, waiting: () => void): Promise<string> {
  const cache = cacheDirectory()
  const path = join(cache, name)
  if (existsSync(path)) return path
  mkdirSync(cache, { recursive: true })
  // When this process stalls and loses the lock, two fetch, each in its own directory, and one is first: no harm.
  const options = { stale: LOCK_STALE_MS, realpath: false, onCompromised: () => {} }
  const release = await lock(path, options).catch(() => {
    waiting()
    return lock(path, {
      ...options,
      retries: { retries: LOCK_RETRIES, factor: 1, minTimeout: LOCK_RETRY_MS, maxTimeout: LOCK_RETRY_MS },
    })
  })
  try {
    if (existsSync(path)) return path
    for (const old of readdirSync(cache)) {
      if (old.startsWith(`${name}.part-`)) rmSync(join(cache, old), { recursive: true, force: true })
    }
    const part = `${path}.part-${randomBytes(4).toString('hex')}`
    mkdirSync(part)
    try {
      await fetch(part)
      if (!existsSync(path)) renameSync(part, path)
    } finally {
      rmSync(part, { recursive: true, force: true })
    }
    return path
  } finally {
    await release().catch(() => {})
  }
}
