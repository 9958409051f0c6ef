/** What the plugin costs a whole Fastify request, and what a flood of bad tokens costs good ones. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build, type Plugin } from 'esbuild'
import { Pool } from 'undici'
import { tokenOf } from './keys.ts'
import type { ServerStarted } from './peer/fastify.ts'
import { median } from './statistics.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const SERVER = join(ROOT, 'bench', 'peer', 'fastify.ts')
/** As packages are: what reads TypeScript as it goes adds to every function that is made on the way. */
const BUILT = join(ROOT, '.keyturn', 'bench', 'fastify.mjs')
const CONNECTIONS = 20

const PACKAGES_OUTSIDE: Plugin = {
  name: 'packages-outside',
  setup: (making) =>
    making.onResolve({ filter: /^[^./]/ }, ({ path, kind }) =>
      kind === 'entry-point' || path.startsWith('@keyturn/') ? undefined : { path, external: true },
    ),
}

export interface RequestFigures {
  readonly rounds: number
  readonly perRound: number
  /** Microseconds of the server's processor time for one request, medians over the rounds. */
  readonly us: { readonly bare: number; readonly least: number; readonly guarded: number; readonly flooded: number }
  /** Median of the ratio in each round: how many of the bare requests the same processor serves with the plugin. */
  readonly ofBare: number
  /** The same of a hook that only hashes the token and looks it up: what can be reached at most. */
  readonly leastOfBare: number
  /** The same for good requests with as many bad ones between them, of what the same total of good ones takes. */
  readonly ofGood: number
}

export async function measureRequests({ keys = 10_000, rounds = 15, perRound = 4_000 } = {}): Promise<RequestFigures> {
  const tokens = Array.from({ length: keys }, (_, i) => tokenOf(i))
  const unknown = Array.from({ length: keys }, (_, i) => tokenOf(keys + i))
  await build({
    entryPoints: [SERVER],
    outfile: BUILT,
    bundle: true,
    platform: 'node',
    format: 'esm',
    plugins: [PACKAGES_OUTSIDE],
  })
  const server = fork(BUILT, [], { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  try {
    server.send(tokens)
    const [started] = (await once(server, 'message')) as [ServerStarted]
    const pools = {
      bare: new Pool(started.bare, { connections: CONNECTIONS }),
      least: new Pool(started.least, { connections: CONNECTIONS }),
      guarded: new Pool(started.guarded, { connections: CONNECTIONS }),
    }
    const good = (i: number): string => tokens[i % keys] ?? ''
    const mixed = (i: number): string => (i % 2 === 0 ? good(i) : (unknown[i % keys] ?? ''))
    const contestants = {
      bare: () => run(server, pools.bare, perRound, good, perRound),
      least: () => run(server, pools.least, perRound, good, perRound),
      guarded: () => run(server, pools.guarded, perRound, good, perRound),
      flooded: () => run(server, pools.guarded, perRound, mixed, perRound / 2),
    }
    const names = ['bare', 'least', 'guarded', 'flooded'] as const
    const times: Record<(typeof names)[number], number[]> = { bare: [], least: [], guarded: [], flooded: [] }
    for (let round = -2; round < rounds; round++) {
      for (let i = 0; i < names.length; i++) {
        const name = names[(i + round + names.length) % names.length] ?? 'bare'
        const us = await contestants[name]()
        if (round >= 0) times[name].push(us)
      }
    }
    await Promise.all(Object.values(pools).map((pool) => pool.close()))
    const ratio = (of: number[], to: number[]): number => median(of.map((us, i) => us / (to[i] ?? us)))
    return {
      rounds,
      perRound,
      us: {
        bare: median(times.bare),
        least: median(times.least),
        guarded: median(times.guarded),
        flooded: median(times.flooded),
      },
      ofBare: ratio(times.bare, times.guarded),
      leastOfBare: ratio(times.bare, times.least),
      ofGood: ratio(times.guarded, times.flooded),
    }
  } finally {
    server.kill()
  }
}

async function used(server: ChildProcess): Promise<number> {
  server.send('used?')
  const [us] = (await once(server, 'message')) as [number]
  return us
}

/** @returns microseconds of the server's processor time for one request */
async function run(
  server: ChildProcess,
  pool: Pool,
  count: number,
  token: (i: number) => string,
  accepted: number,
): Promise<number> {
  const before = await used(server)
  let next = 0
  let right = 0
  const caller = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) {
      const headers = { authorization: `Bearer ${token(i)}`, 'user-agent': 'bench/1' }
      const { statusCode, body } = await pool.request({ method: 'GET', path: '/orders/7', headers })
      await body.dump()
      if (statusCode === 200) right += 1
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, caller))
  if (right !== accepted) throw new Error(`the bench is wrong: ${right} of ${accepted} requests were accepted`)
  return ((await used(server)) - before) / count
}
