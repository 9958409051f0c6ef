import { setTimeout as pause } from 'node:timers/promises'
import getPort from 'get-port'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { ROTATION_CHANNEL } from '../../registry/rotations.ts'
import { eventually, type House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import {
  environmentOf,
  type GatewayProcess,
  type Running,
  startGatewayProcess,
  startProgram,
  startUpstream,
} from '../support/processes.ts'
import { LONG, randomOf, runsOf } from '../support/runs.ts'
import { COURSES, type CourseName, type Ran, run, type Site } from './courses.ts'

const KILLS = runsOf({ few: 6, many: 40 })
const AT_ONCE = 3
/** How long a process that is only stopped stands still: sometimes longer than an activity may take. */
const LONGEST_STOP_MS = 14_000
const LONGEST_QUIET_MS = 4_000

/** Whatever may die, and how it comes back. More than one worker, so that one goes on while another stands still. */
const NAMES = ['worker-1', 'worker-2', 'collector', 'api', 'gw-1', 'gw-2'] as const
type Name = (typeof NAMES)[number]
/** Out of which one is drawn: workers do the work. */
const LOTS: readonly Name[] = ['worker-1', 'worker-1', 'worker-2', 'worker-2', ...NAMES]

let house: House
let upstream: Awaited<ReturnType<typeof startUpstream>>
let port: number
let listener: pg.Client
const running = new Map<Name, Running>()
const gateways = new Map<Name, GatewayProcess>()

beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 1, worker: false, collector: false })
  upstream = await startUpstream()
  port = await getPort({ host: '127.0.0.1' })
  listener = new pg.Client({ connectionString: house.config.postgresUrl })
  await listener.connect()
  await listener.query(`listen ${ROTATION_CHANNEL}`)
  await Promise.all(NAMES.map(start))
}, 240_000)
afterAll(async () => {
  await Promise.all([...running.values()].map((program) => program.kill()))
  await listener.end()
  upstream.server.close()
  await house.close()
})

/** Starts a process; resolves when it is at work. */
async function start(name: Name): Promise<void> {
  if (name === 'gw-1' || name === 'gw-2') {
    const gateway = await startGatewayProcess(house, `${name}-process`, { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
    gateways.set(name, gateway)
    running.set(name, gateway)
    return
  }
  const file = name === 'api' ? 'api-server' : name === 'collector' ? 'usage-collector' : 'rotation-worker'
  const listen = `127.0.0.1:${name === 'api' ? port : 0}`
  const program = startProgram(`workers/${file}.ts`, { ...environmentOf(house, 'info'), KEYTURN_LISTEN: listen })
  running.set(name, program)
  if (name === 'api') await program.says('listening at')
  else if (name !== 'collector') await program.says('"state":"RUNNING"')
}

/** Kills or stops one process after the other, mostly a moment after something has changed in a rotation. @returns what it did */
async function kill(kills: number, random: () => number): Promise<string[]> {
  const done: string[] = []
  while (done.length < kills) {
    await Promise.race([changed(), pause(random() * LONGEST_QUIET_MS)])
    await pause(random() * 150)
    const name = LOTS[Math.floor(random() * LOTS.length)] ?? 'worker-1'
    const victim = running.get(name)
    if (name.startsWith('worker') && random() < 0.2) {
      const stopMs = Math.round(random() * LONGEST_STOP_MS)
      victim?.child.kill('SIGSTOP')
      await pause(stopMs)
      victim?.child.kill('SIGCONT')
      done.push(`${name} stopped for ${stopMs} ms`)
    } else {
      await victim?.kill()
      done.push(`${name} killed`)
      await start(name)
    }
  }
  return done
}

const changed = (): Promise<void> => new Promise((resolve) => listener.once('notification', () => resolve()))

test(`G8: worker, collector, API and gateways are killed at any moment; every rotation ends as it would have, with no orphan key (${KILLS.text})`, {
  timeout: 120_000 + KILLS.count * 90_000,
}, async () => {
  const random = randomOf(KILLS.seed)
  const site: Site = { house, api: `http://127.0.0.1:${port}`, call: callEverywhere }
  const names = Object.keys(COURSES) as CourseName[]
  let next = Math.floor(random() * names.length)
  let over = false
  const killing = kill(KILLS.count, random).finally(() => {
    over = true
  })
  const ran: Ran[] = []
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      // In the long run each course once at least.
      while (!over || (LONG && ran.length < names.length)) ran.push(await run(site, names[next++ % names.length] ?? 'to the end'))
    }),
  )
  const kills = await killing
  process.stdout.write(`G8: ${kills.length} kills, ${ran.length} rotations, seed ${KILLS.seed}\n`)
  for (const one of ran) await endedWell(one, kills)
  expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
})

async function callEverywhere(token: string): Promise<void> {
  for (const gateway of house.gateways)
    gateway.authenticate({ headers: { authorization: `Bearer ${token}` }, address: '192.0.2.1' })
  await Promise.all([...gateways.values()].map((gateway) => gateway.call(token).catch(() => undefined)))
}

async function endedWell({ course, credential, rotationId, newToken }: Ran, kills: readonly string[]): Promise<void> {
  const { ends, oldKey } = COURSES[course]
  const about = `${course}, ${rotationId}; ${kills.join(', ')}`
  expect((await house.rotation(rotationId)).stage, about).toBe(ends)
  const [first, ...others] = await house.keys(credential.credentialId)
  expect(first?.state, about).toBe(oldKey)
  expect(first?.standing, about).toBe(oldKey === 'active' ? 'current' : 'retired')
  // No orphan: what is accepted is what the client holds, and all else is off and published.
  const accepted = [first, ...others].filter((key) => key?.state === 'active')
  expect(accepted, about).toHaveLength(1)
  expect(accepted[0]?.standing, about).toBe('current')
  for (const key of [first, ...others]) {
    expect(key?.publishedRevision, about).toBe(key?.revision)
    if (key !== accepted[0]) expect(key?.standing, about).toBe('retired')
  }
  await everywhere(credential.token, oldKey === 'active', about)
  if (newToken !== undefined) await everywhere(newToken, accepted[0]?.keyId !== credential.keyId, about)
}

/** What every gateway makes of a token, those included that have died since and come back. */
async function everywhere(token: string, accepted: boolean, about: string): Promise<void> {
  expect(house.verdicts(token), about).toEqual(house.gateways.map(() => accepted))
  for (const [name, gateway] of gateways) {
    const status = await eventually(() => gateway.call(token).catch(() => undefined), `${name} for ${about}`, 60_000)
    expect(status, `${name}; ${about}`).toBe(accepted ? 200 : 401)
  }
}
