/** The real gitleaks, for tests and measurements beside it. */
import { join } from 'node:path'
import { cached } from '../../infra/stack/cache.ts'
import { buildGo } from '../../infra/stack/fetch.ts'
import { findOnPath } from '../../infra/stack/tools.ts'
import { cacheName, VERSIONS } from '../../infra/stack/versions.ts'

/**
 * Builds it once, which takes a minute or more. @returns the program's path; undefined where there is no Go to build it with
 * @param say called with what takes time
 */
export async function gitleaks(say: (what: string) => void): Promise<string | undefined> {
  if (findOnPath('go') === undefined) return undefined
  const { module, version } = VERSIONS.gitleaks
  const directory = await cached(
    cacheName('gitleaks', VERSIONS.gitleaks),
    (part) => {
      say(`building gitleaks ${version} with Go, once`)
      return buildGo(part, module, version, 'take Go off the PATH to go without')
    },
    () => say('waiting for another run that builds gitleaks'),
  )
  return join(directory, 'gitleaks')
}
