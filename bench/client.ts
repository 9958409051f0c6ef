/** What the client's `fetch` costs beside the bare one, and how soon all processes of a client use a new key. */
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createClient, memoryStore } from '@keyturn/client'
import { type GuardedProcess, spawnGuarded, stopGuarded } from '../infra/stack/guard.ts'
import { Crowd, openCrowdPlace } from '../test/client/crowd.ts'
import type { BenchHouse } from './house.ts'
import { tokenOf } from './keys.ts'
import { createCredential, type HeldCredential, reached, rotate } from './rotations-under-way.ts'
import { median } from './statistics.ts'

const AT_ONCE = 8
const WARM_UP_ROUNDS = 2

const NAMES = ['bare', 'bearer', 'hmac'] as const
type Name = (typeof NAMES)[number]

export interface ClientFigures {
  readonly rounds: number
  readonly perRound: number
  /** Microseconds for one request, medians over the rounds. */
  readonly us: Readonly<Record<Name, number>>
  /** Medians over the rounds of the ratio in each. */
  readonly bearerOverBare: number
  readonly hmacOverBare: number
}

/** Against a server that does nothing, in this process: what is compared is the time of both ends. */
export async function measureClient({ rounds = 20, perRound = 1_000 } = {}): Promise<ClientFigures> {
  const server = createServer((request, response) => {
    request.resume()
    response.end('ok')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/orders?limit=5`
  const token = tokenOf(1)
  const open = (kind: 'bearer' | 'hmac-sha256') =>
    createClient({ store: memoryStore(), credential: { kind, token }, api: 'http://127.0.0.1:9' })
  const [bearer, hmac] = [open('bearer'), open('hmac-sha256')]
  const contestants: Record<Name, () => Promise<Response>> = {
    // The same request: the caller has put the key there.
    bare: () => fetch(url, { headers: { authorization: `Bearer ${token}` } }),
    bearer: () => bearer.fetch(url),
    hmac: () => hmac.fetch(url),
  }
  const times: Record<Name, number[]> = { bare: [], bearer: [], hmac: [] }
  try {
    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      for (let turn = 0; turn < NAMES.length; turn++) {
        const name = NAMES[(turn + round + WARM_UP_ROUNDS) % NAMES.length] as Name
        const us = await run(contestants[name], perRound)
        if (round >= 0) times[name].push(us)
      }
    }
  } finally {
    await Promise.all([bearer.close(), hmac.close()])
    server.closeAllConnections()
    server.close()
  }
  const overBare = (name: Name): number => median(times[name].map((us, i) => us / (times.bare[i] ?? us)))
  return {
    rounds,
    perRound,
    us: { bare: median(times.bare), bearer: median(times.bearer), hmac: median(times.hmac) },
    bearerOverBare: overBare('bearer'),
    hmacOverBare: overBare('hmac'),
  }
}

async function run(call: () => Promise<Response>, count: number): Promise<number> {
  let next = 0
  const caller = async (): Promise<void> => {
    while (next++ < count) {
      const response = await call()
      await response.text()
      if (response.status !== 200) throw new Error(`the bench is wrong: ${response.status}`)
    }
  }
  const began = process.hrtime.bigint()
  await Promise.all(Array.from({ length: AT_ONCE }, caller))
  return Number(process.hrtime.bigint() - began) / 1_000 / count
}

export interface SwitchFigures {
  readonly processes: number
  readonly perSecond: number
  readonly rounds: number
  /** From the new key being published until the client may know: until the answers to the old key say so, and the feed does. Medians. */
  readonly toldMs: number
  readonly library: SwitchedOver
  readonly agent: SwitchedOver
}

interface SwitchedOver {
  /** From the new key being published until the last process has had a request with it accepted; median. */
  readonly allMs: number
  readonly failed: number
}

/** Who takes a crowd over to the new key. */
type Way = 'library' | 'agent'

/** The library in each of the processes, which share a file; or one agent beside programs that read their key from a file and are sent SIGHUP. */
export async function measureSwitch(
  house: BenchHouse,
  { processes = 20, perSecond = 200, rounds = 5 } = {},
): Promise<SwitchFigures> {
  const place = await openCrowdPlace()
  const told: number[] = []
  const all = { library: [] as number[], agent: [] as number[] }
  const failed = { library: 0, agent: 0 }
  const round = async (way: Way): Promise<void> => {
    const credential = await createCredential(house)
    const directory = mkdtempSync(join(place.directory, 'round-'))
    const agent = way === 'agent' ? await prepareAgent(house, credential, directory) : undefined
    const crowd = new Crowd(place, processes, {
      token: credential.token,
      api: house.api,
      gateways: house.gateways.map(({ url }) => url),
      perSecond: perSecond / processes,
      abandonedMs: 10_000,
      echoes: false,
      ...(agent === undefined ? {} : { keyFile: agent.keyFile }),
    })
    try {
      await crowd.until(() => crowd.uses.size === processes)
      await agent?.start()
      const old = new Set(crowd.uses.values())
      const rotation = await rotate(house, credential, { overlap: '10m', quietPeriod: '5m' })
      await crowd.until(() => [...crowd.uses.values()].every((keyId) => !old.has(keyId)))
      const allAt = Math.max(...crowd.usesSince.values())
      const { receipts, timeline } = await reached(house, rotation, 'monitoring')
      const published = Date.parse(receipts[0]?.publishedAt ?? '')
      all[way].push(allAt - published)
      told.push(Date.parse(timeline.find(({ stage }) => stage === 'monitoring')?.at ?? '') - published)
      failed[way] += crowd.failures.length
    } finally {
      await Promise.all([agent?.stop(), crowd.stop()])
    }
  }
  try {
    for (let i = 0; i < rounds; i++) {
      await round('library')
      await round('agent')
    }
  } finally {
    await place.close()
  }
  const of = (way: Way): SwitchedOver => ({ allMs: median(all[way]), failed: failed[way] })
  return { processes, perSecond, rounds, toldMs: median(told), library: of('library'), agent: of('agent') }
}

const FEED_OPENS_MS = 2_000
const COMMAND = fileURLToPath(new URL('../cli/keyturn.js', import.meta.url))

/** `keyturn agent` for programs that have the key of `keyFile`; it sends SIGHUP to those that have left their process id beside it. */
async function prepareAgent({ api }: BenchHouse, { credentialId, token }: HeldCredential, directory: string) {
  const at = (name: string): string => join(directory, name)
  const keyFile = at('key')
  for (const file of [keyFile, at('first-key')]) writeFileSync(file, token, { mode: 0o600 })
  const config = {
    api,
    credentialId,
    store: { file: at('store.json') },
    firstKeyFile: at('first-key'),
    files: [{ path: keyFile }],
    program: { run: ['sh', '-c', `kill -HUP $(cat ${keyFile}.*.pid)`] },
  }
  writeFileSync(at('agent.json'), JSON.stringify(config))
  let running: GuardedProcess | undefined
  return {
    keyFile,
    /** Until it follows the key. */
    async start(): Promise<void> {
      running = spawnGuarded(process.execPath, [COMMAND, 'agent', '--config', at('agent.json')], {
        env: { PATH: process.env['PATH'] },
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      if (running.child.stdout === null) throw new Error('no standard output')
      const lines = createInterface({ input: running.child.stdout })
      await Promise.race([
        new Promise<void>((resolve) => {
          lines.on('line', (line) => (JSON.parse(line) as { type: string }).type === 'watching' && resolve())
        }),
        running.ended.then((how) => Promise.reject(new Error(`the agent ${how}`))),
      ])
      // It opens the feed then.
      await pause(FEED_OPENS_MS)
    },
    stop: async () => (running === undefined ? undefined : stopGuarded(running)),
  }
}
