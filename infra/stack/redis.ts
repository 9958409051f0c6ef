/** Redis: what gateways share to accept a signed request once. Part of tests and measurements, not of the stack. */
import { programOf } from './fetch.ts'
import { VERSIONS } from './versions.ts'

const SERVER = {
  program: 'redis-server',
  title: 'Redis',
  slug: 'redis',
  instead: 'put redis-server on the PATH (on Debian the package redis-server)',
}

/** The program redis-server: that of this machine, or else fetched once. */
export const redisServer = (say: (what: string) => void = () => {}): Promise<string> => programOf(VERSIONS.redis, SERVER, say)
