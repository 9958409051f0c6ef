/** Moto's server, which answers as AWS does: Secrets Manager of it. */
import { cached } from '../../infra/stack/cache.ts'
import { fetchPython } from '../../infra/stack/fetch.ts'
import { startService } from '../../infra/stack/service.ts'
import { requireTool } from '../../infra/stack/tools.ts'
import { cacheName, VERSIONS } from '../../infra/stack/versions.ts'

export interface Moto {
  readonly endpoint: string
  stop(): Promise<void>
}

/** Fetches it once. @returns the directory of its packages; undefined, and says why, where it can not be had */
export async function findMoto(say: (what: string) => void): Promise<string | undefined> {
  const { requirements, version, megabytes } = VERSIONS.moto
  try {
    return await cached(
      cacheName('moto', VERSIONS.moto),
      (part) => {
        say(`fetching Moto ${version} with pip, ${megabytes} MB, once`)
        return fetchPython(part, requirements, 'go without the tests of AWS')
      },
      () => say('waiting for another run that fetches Moto'),
    )
  } catch (error) {
    say(`the tests with Moto are left out: ${(error as Error).message}`)
    return undefined
  }
}

export async function startMoto(packages: string): Promise<Moto> {
  const python = requireTool('python3', 'install Python 3')
  const { ports, stop } = await startService(
    {
      name: 'Moto',
      slug: 'moto',
      ports: 1,
      withinMs: 120_000,
      async prepare(_directory, [port]) {
        const env = { ...process.env, PYTHONPATH: packages }
        return { command: python, args: ['-m', 'moto.server', '-H', '127.0.0.1', '-p', String(port)], options: { env } }
      },
      async ask([port]) {
        const { status } = await fetch(`http://127.0.0.1:${port}/moto-api/data.json`)
        if (status !== 200) throw new Error(`it answered ${status}`)
      },
    },
    new AbortController().signal,
  )
  return { endpoint: `http://127.0.0.1:${ports[0]}`, stop }
}
