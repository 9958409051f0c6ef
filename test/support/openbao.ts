/** The real OpenBao, which speaks Vault's API, with a transit engine. */
import { randomBytes } from 'node:crypto'
import { programOf } from '../../infra/stack/fetch.ts'
import { startService } from '../../infra/stack/service.ts'
import { VERSIONS } from '../../infra/stack/versions.ts'

interface BaoAnswer {
  readonly data?: Readonly<Record<string, unknown>>
  readonly auth?: { readonly client_token: string }
}

export interface Bao {
  readonly address: string
  /** What its root may do: everything. */
  readonly token: string
  /** One call of its API; `path` without `/v1/`. */
  call(path: string, body?: object): Promise<BaoAnswer>
  stop(): Promise<void>
}

const COMMAND = { program: 'bao', title: 'OpenBao', slug: 'openbao', instead: 'put the command bao on the PATH' }

/** Fetches it once. @returns undefined, and says why, where it can not be had */
export async function findBao(say: (what: string) => void): Promise<string | undefined> {
  try {
    return await programOf(VERSIONS.openbao, COMMAND, say)
  } catch (error) {
    say(`the tests with OpenBao are left out: ${(error as Error).message}`)
    return undefined
  }
}

export async function startBao(command: string): Promise<Bao> {
  const token = randomBytes(16).toString('hex')
  const service = await startService(
    {
      name: 'OpenBao',
      slug: 'openbao',
      ports: 1,
      withinMs: 120_000,
      async prepare(_directory, [port]) {
        const env = { ...process.env, BAO_DEV_ROOT_TOKEN_ID: token, BAO_DEV_LISTEN_ADDRESS: `127.0.0.1:${port}` }
        return { command, args: ['server', '-dev', '-dev-no-store-token'], options: { env } }
      },
      async ask([port]) {
        const { status } = await fetch(`http://127.0.0.1:${port}/v1/sys/health`)
        if (status !== 200) throw new Error(`it answered ${status}`)
      },
    },
    new AbortController().signal,
  )
  const address = `http://127.0.0.1:${service.ports[0]}`
  return {
    address,
    token,
    stop: service.stop,
    async call(path, body = {}) {
      const response = await fetch(`${address}/v1/${path}`, {
        method: 'POST',
        headers: { 'x-vault-token': token },
        body: JSON.stringify(body),
      })
      if (!response.ok) throw new Error(`${path}: OpenBao answered ${response.status}`)
      const text = await response.text()
      return text === '' ? {} : (JSON.parse(text) as BaoAnswer)
    },
  }
}
