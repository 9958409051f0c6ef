/** `keyturn emergency` for a fleet, and with --direct: without the API, and with Temporal really not there. */
import { spawn } from 'node:child_process'
import { type RolloverId, randomBase62 } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { getRollover } from '../../registry/rollover-records.ts'
import { startRotationWorker } from '../../workers/rotation-worker.ts'
import { serveApi } from '../support/api.ts'
import { type FleetMember, makeFleet } from '../support/fleet.ts'
import { startForwarder } from '../support/forwarder.ts'
import { eventually } from '../support/house.ts'
import { obstruct } from '../support/obstacles.ts'
import { COMMAND, emptyDirectory, type Office, openOffice, startKeyturn } from './office.ts'

vi.setConfig({ testTimeout: 300_000 })
const WITHIN_MS = 120_000
const NOWHERE = '127.0.0.1:9'

let office: Office
let stopWorker: (() => Promise<void>) | undefined
beforeAll(async () => {
  // The worker is started below, when what works without it has been seen.
  office = await openOffice({ gateways: 2, worker: false, collector: false })
})
afterAll(async () => {
  await stopWorker?.()
  await office.close()
})

async function fleet(count: number): Promise<{ members: FleetMember[]; scope: string }> {
  const { db, propagation } = office.house
  const scope = `fleet-${randomBase62(12).toLowerCase()}`
  const members = await makeFleet(db, count, [scope])
  const published = await propagation.publishMany(members.map(({ keyId }) => keyId))
  expect((await propagation.waitForAll(published, { timeoutMs: 60_000 })).unconfirmed).toEqual([])
  return { members, scope }
}
const verdictsOf = (members: readonly FleetMember[]) => members.map(({ token }) => office.house.verdicts(token))
const every = (members: readonly FleetMember[], accepted: boolean) => members.map(() => [accepted, accepted])
const rollovers = async () => (await office.house.db.query<{ n: number }>('select count(*) as n from rollovers'))[0]?.n

/** Runs the command with what servers there are, and none of API, operator token, Temporal and key-encryption key. */
const direct = async (...args: string[]) => {
  const { KEYTURN_API: _, KEYTURN_TOKEN: __, KEYTURN_KEK: ___, ...env } = office.env
  const directory = emptyDirectory()
  const given = ['emergency', ...args, '--direct', '--reason', 'breach']
  const finished = await startKeyturn(given, { env: { ...env, KEYTURN_TEMPORAL_ADDRESS: NOWHERE }, cwd: directory.path }).finished
  directory.remove()
  office.printed.push(finished.stdout, finished.stderr)
  return finished
}
const idIn = (text: string) => /rol_[0-9A-Za-z]{16}/.exec(text)?.[0] as RolloverId

describe('without a worker and without Temporal', () => {
  const left: { rolloverId: RolloverId; members: FleetMember[] }[] = []

  test('G3: --direct kills one credential, and prints the receipts', async () => {
    const { members } = await fleet(1)
    const { code, stdout, stderr } = await direct(members[0]?.credentialId ?? '')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(
      /^rol_\w{16} {2}1 key is dead in the registry\n.* {2}gw-1 {2}refuses all of them, after \d+ ms\n.* {2}gw-2 {2}refuses all of them, after \d+ ms\nNew keys come when a worker and Temporal are there\.\n$/,
    )
    expect(verdictsOf(members)).toEqual(every(members, false))
    left.push({ rolloverId: idIn(stdout), members })
  })

  test('G3: --direct kills a fleet; a second one joins it, and kills nothing again', async () => {
    const { members, scope } = await fleet(4)
    const first = await direct('--select', `scope=${scope}`, '--yes', '--json')
    const [rollover, receipt] = first.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as object)
    expect(rollover).toMatchObject({ type: 'rollover', selected: 4, killed: 4 })
    expect(receipt).toMatchObject({ type: 'receipt', unconfirmed: [] })
    expect(verdictsOf(members)).toEqual(every(members, false))
    const again = await direct('--select', `scope=${scope}`, '--yes')
    expect(again).toMatchObject({ code: 0, stdout: expect.stringContaining('0 keys are dead in the registry') })
    expect(again.stderr).toContain('4 of the credentials are in another rollover')
    left.push({ rolloverId: idIn(first.stdout), members }, { rolloverId: idIn(again.stdout), members })
  })

  test('POST /v1/rollovers does the same while Temporal is away', async () => {
    const { members, scope } = await fleet(2)
    const temporal = await startForwarder(office.house.config.temporalAddress)
    const api = await serveApi(office.house, { config: { temporalAddress: temporal.address } })
    temporal.cut()
    const asked = { selector: { scope }, reason: 'breach', expected: 2 }
    const { status, body } = await api.client.post<{ rolloverId: RolloverId }>('/v1/rollovers', asked)
    expect(status).toBe(202)
    await eventually(() => verdictsOf(members).flat().includes(true) === false, 'the refusals', WITHIN_MS)
    await api.stop()
    temporal.close()
    left.push({ rolloverId: body.rolloverId, members })
  })

  test('G8: with a worker and Temporal there, what was left is picked up: one new key for each', async () => {
    const worker = await startRotationWorker(office.house.config, office.house.log)
    stopWorker = () => worker.stop()
    for (const { rolloverId, members } of left) {
      const { stage, counts } = await eventually(
        async () => {
          const rollover = await getRollover(office.house.db, rolloverId)
          return rollover?.endedAt === undefined ? undefined : rollover
        },
        `the end of ${rolloverId}`,
        WITHIN_MS,
      )
      expect([stage, counts.successors, counts.failed]).toEqual(['completed', members.length, 0])
      for (const { credentialId } of members)
        expect((await office.house.keys(credentialId)).map(({ version, state }) => `${version} ${state}`)).toEqual([
          '1 compromised',
          '2 active',
        ])
    }
  })

  test.each<[what: string, args: string[], code: number, said: RegExp]>([
    ['an empty selector', ['--select', ' ', '--yes'], 2, /empty selector selects every credential there is/],
    ['a credential that there is not', ['crd_0000000000000000'], 1, /no credential with a key is selected/i],
    ['a fleet without --yes, and nobody to type', ['--select', 'environment=prod'], 2, /Add --yes/],
  ])('%s is refused, and nothing done', async (_, args, code, said) => {
    const before = await rollovers()
    const finished = await direct(...args)
    expect([finished.code, finished.stderr]).toEqual([code, expect.stringMatching(said)])
    expect(await rollovers()).toBe(before)
  })
})

describe('a fleet over the API', () => {
  test('shows what it will do, and follows it to its end with --watch', async () => {
    const { members, scope } = await fleet(3)
    const { code, stdout, stderr } = await office.run(
      ...['emergency', '--select', `environment=prod scope=${scope}`, '--reason', 'breach', '--yes', '--watch'],
    )
    expect(code).toBe(0)
    expect(stderr).toMatch(/credentials {2}3 of \d clients? \(prod 3\)\nkeys {9}3 die at once, for good/)
    expect(stdout).toMatch(/^rol_\w{16} {2}3 keys are dead\n/)
    expect(stdout).toMatch(/completed {2}dead 3, confirmed 3 {2}new 3, delivered 3 of 3/)
    expect(verdictsOf(members)).toEqual(every(members, false))
    const rolloverId = idIn(stdout)
    expect(await office.json(['rollover', 'status', rolloverId])).toMatchObject({
      rolloverId,
      stage: 'completed',
      counts: { killed: 3 },
    })
    expect((await office.run('rollover', 'status')).stdout).toContain(rolloverId)
    const late = await office.run('rollover', 'cancel', rolloverId, '--reason', 'late')
    expect(late).toMatchObject({ code: 1, stderr: expect.stringContaining('The rollover has ended: it is completed.') })
  })

  test('an order reaches the rollover', async () => {
    const { members, scope } = await fleet(2)
    // Until it is published, the rollover stands before its first wave.
    const [first] = members
    if (first === undefined) throw new Error('there is no member')
    const release = await obstruct(office.house.db, first.credentialId, {
      refuses: 'published',
      event: 'keyturn.key.compromised',
    })
    const start = ['emergency', '--select', `scope=${scope}`, '--reason', 'breach', '--yes']
    const { rolloverId } = await office.json<{ rolloverId: RolloverId }>(start)
    const cancel = ['rollover', 'cancel', rolloverId, '--reason', 'a drill']
    await eventually(async () => (await office.run(...cancel)).code === 0, 'the cancellation', WITHIN_MS)
    await release()
    const watched = await office.run('rollover', 'status', rolloverId, '--watch')
    expect(watched.code).toBe(1)
    expect(watched.stdout).toContain('Without a new key from this rollover:')
    expect(watched.stdout).toContain(members[0]?.credentialId)
  })

  test.each([
    ['the right count', '2', 0, false],
    ['another count', '3', 1, true],
  ])('a person types %s', async (_, typed, code, alive) => {
    const { members, scope } = await fleet(2)
    const finished = await typeInto(['emergency', '--select', `scope=${scope}`, '--reason', 'breach'], typed)
    expect([finished.code, finished.said]).toEqual([
      code,
      expect.stringContaining(alive ? '2 was to be typed' : '2 keys are dead'),
    ])
    if (!alive) await eventually(() => !verdictsOf(members).flat().includes(true), 'the refusals', WITHIN_MS)
    else expect(verdictsOf(members)).toEqual(every(members, true))
  })

  test.each<[what: string, args: string[], code: number, said: RegExp]>([
    ['no credential and no selector', [], 2, /Which keys\?/],
    ['an empty selector', ['--select', '', '--yes'], 1, /say all when that is meant/],
    ['grace', ['--select', 'environment=prod', '--grace', '15m'], 2, /no grace/],
    ['nobody to type', ['--select', 'environment=prod'], 2, /Add --yes/],
  ])('%s is refused', async (_, args, code, said) => {
    const before = await rollovers()
    const finished = await office.run('emergency', '--reason', 'breach', ...args)
    expect([finished.code, finished.stderr]).toEqual([code, expect.stringMatching(said)])
    expect(await rollovers()).toBe(before)
  })
})

/** Runs the command at a terminal (Python has one), and types a line when it asks. */
function typeInto(args: readonly string[], line: string): Promise<{ code: number | null; said: string }> {
  const script = 'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))'
  const { PATH = '', HOME = '' } = process.env
  const child = spawn('python3', ['-c', script, process.execPath, COMMAND, ...args], {
    env: { PATH, HOME, NO_COLOR: '1', ...office.env },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  let said = ''
  let asked = false
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text
    if (asked || !said.includes('Type the number of credentials')) return
    asked = true
    child.stdin.write(`${line}\n`)
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, said }))
  })
}
