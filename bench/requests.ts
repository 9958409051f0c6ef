/** What the plugin costs a whole Fastify request, and what a flood of bad tokens costs good ones. */
import { type ChildProcess, fork } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { SESSION_ISSUER, SESSION_TYPE } from '@keyturn/contract'
import { build, type Plugin } from 'esbuild'
import { Pool } from 'undici'
import { SESSION_KID, tokenOf } from './keys.ts'
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

type Fields = Readonly<Record<string, string>>
const show = (token: string): Fields => ({ authorization: `Bearer ${token}` })
/** Each is another one, and none is right: what it costs to find that out is what a flood of them costs. */
const BAD = {
  signature: (): Fields => {
    const parameters = `("@method" "@target-uri");created=${Math.floor(Date.now() / 1_000)};nonce="${randomUUID()}";keyid="${'k'.repeat(16)}"`
    return { 'signature-input': `sig=${parameters}`, signature: `sig=:${randomBytes(64).toString('base64')}:` }
  },
  session: (): Fields => {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
    const header = part({ alg: 'EdDSA', typ: SESSION_TYPE, kid: SESSION_KID })
    return show(`${header}.${part({ iss: SESSION_ISSUER, jti: randomUUID() })}.${randomBytes(64).toString('base64url')}`)
  },
}

const NAMES = ['bare', 'least', 'guarded', 'unknown', 'signature', 'session', 'heldSignature', 'heldSession'] as const
type Name = (typeof NAMES)[number]

export interface RequestFigures {
  readonly rounds: number
  readonly perRound: number
  readonly attackers: number
  /** Microseconds of the server's processor time for one request, medians over the rounds; for one good request where floods are held. */
  readonly us: Readonly<Record<Name, number>>
  /** Median of the ratio in each round: how many of the bare requests the same processor serves with the plugin. */
  readonly ofBare: number
  /** The same of a hook that only hashes the token and looks it up: what can be reached at most. */
  readonly leastOfBare: number
  /** The same for good requests with as many bad ones between them, of what the same total of good ones takes. */
  readonly ofGood: Readonly<Record<'unknown' | 'signature' | 'session', number>>
  /** The same for good requests while a flood comes from their own address, past its limit. */
  readonly ofGoodHeld: Readonly<Record<keyof typeof BAD, number>>
}

export async function measureRequests({
  keys = 10_000,
  rounds = 15,
  perRound = 4_000,
  attackers = 200,
} = {}): Promise<RequestFigures> {
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
    const open = (url: string): Pool => new Pool(url, { connections: CONNECTIONS })
    const pools = {
      bare: open(started.bare),
      least: open(started.least),
      guarded: open(started.guarded),
      limited: open(started.limited),
    }
    const good = (i: number): Fields => show(tokens[i % keys] ?? '')
    const among = (bad: (i: number) => Fields) => () =>
      run(server, pools.guarded, perRound, (i) => (i % 2 === 0 ? good(i) : bad(i)), perRound / 2)
    const beside = (bad: () => Fields) => async () => {
      const flood = await startFlood(started.limited, attackers, bad)
      try {
        return await run(server, pools.limited, perRound, good, perRound)
      } finally {
        await flood.stop()
      }
    }
    const contestants: Record<Name, () => Promise<number>> = {
      bare: () => run(server, pools.bare, perRound, good, perRound),
      least: () => run(server, pools.least, perRound, good, perRound),
      guarded: () => run(server, pools.guarded, perRound, good, perRound),
      unknown: among((i) => show(unknown[i % keys] ?? '')),
      signature: among(BAD.signature),
      session: among(BAD.session),
      heldSignature: beside(BAD.signature),
      heldSession: beside(BAD.session),
    }
    const times = Object.fromEntries(NAMES.map((name) => [name, [] as number[]])) as Record<Name, number[]>
    for (let round = -2; round < rounds; round++) {
      for (let i = 0; i < NAMES.length; i++) {
        const name = NAMES[(i + round + NAMES.length) % NAMES.length] ?? 'bare'
        const us = await contestants[name]()
        if (round >= 0) times[name].push(us)
      }
    }
    await Promise.all(Object.values(pools).map((pool) => pool.close()))
    const ratio = (of: Name, to: Name): number => median(times[of].map((us, i) => us / (times[to][i] ?? us)))
    return {
      rounds,
      perRound,
      attackers,
      us: Object.fromEntries(NAMES.map((name) => [name, median(times[name])])) as Record<Name, number>,
      ofBare: ratio('bare', 'guarded'),
      leastOfBare: ratio('bare', 'least'),
      ofGood: {
        unknown: ratio('guarded', 'unknown'),
        signature: ratio('guarded', 'signature'),
        session: ratio('guarded', 'session'),
      },
      ofGoodHeld: { signature: ratio('guarded', 'heldSignature'), session: ratio('guarded', 'heldSession') },
    }
  } finally {
    server.kill()
  }
}

/** Connections of their own that ask again as soon as they are answered. Resolves when their address is past its limit. */
async function startFlood(url: string, connections: number, bad: () => Fields): Promise<{ stop(): Promise<void> }> {
  const pool = new Pool(url, { connections })
  let answered = 0
  let stopped = false
  const attack = async (): Promise<void> => {
    while (!stopped) {
      const answer = await pool.request({ method: 'GET', path: '/orders/7', headers: { ...bad() } }).catch(() => undefined)
      await answer?.body.dump().catch(() => undefined)
      answered += 1
    }
  }
  const attacks = Array.from({ length: connections }, attack)
  for (let before = -1; before !== answered; await pause(100)) before = answered
  return {
    async stop() {
      stopped = true
      await pool.destroy()
      await Promise.all(attacks)
    },
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
  fields: (i: number) => Fields,
  accepted: number,
): Promise<number> {
  const before = await used(server)
  let next = 0
  let right = 0
  const caller = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) {
      const headers = { ...fields(i), 'user-agent': 'bench/1' }
      const { statusCode, body } = await pool.request({ method: 'GET', path: '/orders/7', headers })
      await body.dump()
      if (statusCode === 200) right += 1
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, caller))
  if (right !== accepted) throw new Error(`the bench is wrong: ${right} of ${accepted} requests were accepted`)
  return ((await used(server)) - before) / count
}
