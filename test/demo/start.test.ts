import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { runKeyturn } from '../cli/office.ts'
import { eventually } from '../support/house.ts'
import { type Demo, modeOf, startDemo } from './demo.ts'

const MINUTE = 60_000
vi.setConfig({ testTimeout: 8 * MINUTE, hookTimeout: 20 * MINUTE })

const demos: Demo[] = []
const directories: string[] = []
async function start(...given: Parameters<typeof startDemo>): Promise<Demo> {
  const demo = await startDemo(...given)
  demos.push(demo)
  return demo
}
function newState(): string {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-start-'))
  directories.push(directory)
  return directory
}
afterAll(() => {
  // Only a failed test leaves any of these.
  for (const { pid } of demos.flatMap((demo) => demo.processes())) process.kill(pid, 'SIGKILL')
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
})

/** Within 15 s nothing may be left, whatever ended it. */
const nothingLeftOf = (demo: Demo): Promise<unknown> =>
  eventually(
    () => demo.processes().length === 0,
    () =>
      `the end of ${demo
        .processes()
        .map(({ command }) => command)
        .join('\n')}`,
    15_000,
  )

describe.skipIf(process.platform !== 'linux')('two at once in one checkout', () => {
  const state = newState()
  let first: Demo
  let second: Demo
  let local: Record<string, unknown>
  let mode = ''
  let gateways = ''
  let besides: Record<string, unknown>
  let code: number | null
  let untouched: Record<string, unknown>

  beforeAll(async () => {
    first = await start('npm', ['--once', '--json'], { state })
    await eventually(
      () => existsSync(join(state, 'owner')),
      () => `its place; so far: ${first.stderr()}`,
      4 * MINUTE,
    )
    second = await start('node', ['--roll-back', '--json'], { state, place: join(state, '2') })
    local = await first.ready()
    mode = modeOf(join(state, 'local.json'))
    besides = await second.ready()
    // On a slow machine the first has gone through its rotation and ended by then.
    untouched = first.now() ?? local
    gateways = (await runKeyturn(['gateway', 'list'], { cwd: tmpdir(), env: { KEYTURN_STATE: second.place } })).stdout
    code = await first.ended
    await nothingLeftOf(first)
  })

  test('the first goes through all stages, loses no request, and ends with exit code 0 and its report', () => {
    expect({ code, stderr: first.stderr() }).toMatchObject({ code: 0 })
    const { stage, timeline, requests, failed, withNewKey, repeatedWithOldKey, ok } = first.report()
    expect({ stage, failed, repeatedWithOldKey, ok }).toEqual({ stage: 'completed', failed: 0, repeatedWithOldKey: 0, ok: true })
    expect(requests).toBeGreaterThan(300)
    expect(withNewKey).toBeGreaterThan(100)
    expect(timeline.map((entry) => entry.stage)).toEqual([
      'requested',
      'introducing',
      'notifying',
      'monitoring',
      'deactivating',
      'completed',
    ])
    expect(first.stdout()).toContain(`requests ${requests}, failed 0\n`)
  })

  test('G3: each receipt has every gateway in it, for people too', () => {
    const { receipts } = first.report()
    expect(receipts.map(({ event, unconfirmed }) => [event, unconfirmed])).toEqual([
      ['keyturn.key.introduced', []],
      ['keyturn.key.deprecated', []],
      ['keyturn.key.deactivated', []],
    ])
    for (const { event, keyId, gateways } of receipts) {
      expect(gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gateway-1', 'gateway-2', 'gateway-3'])
      const line = new RegExp(`^ +${event.replace('keyturn.key.', '')} +${keyId}(,? +gateway-\\d \\d+ ms){3}$`, 'm')
      expect(first.stdout()).toMatch(line)
    }
  })

  test('monitoring waits for the client that is slow to switch, and says so', () => {
    const { timeline } = first.report()
    const at = (stage: string): number => Date.parse(timeline.find((entry) => entry.stage === stage)?.at ?? '')
    expect(at('deactivating') - at('monitoring')).toBeGreaterThan(6_000)
    expect(first.stdout()).toMatch(/still uses the old key: .*batch-importer/)
  })

  test('local.json holds every address while it runs, for its owner alone, and is gone afterwards', () => {
    expect(Object.keys(local).sort()).toEqual(['api', 'console', 'gateways', 'kafka', 'postgres', 'temporal', 'token'])
    expect(local).toMatchObject({ kafka: [expect.any(String)], postgres: expect.stringMatching(/^postgres:/) })
    expect(local['gateways']).toHaveLength(3)
    expect(mode).toBe('600')
    expect(gateways).toMatch(/^gateway-1 .*\ngateway-2 .*\ngateway-3 /m)
    expect(existsSync(join(state, 'local.json'))).toBe(false)
  })

  test('the second keeps its addresses and logs aside, and takes nothing from the first', async () => {
    expect(second.stdout()).toContain(`another run has ${state}; this one keeps its addresses and logs in ${join(state, '2')}`)
    expect(untouched).toEqual(local)
    expect(besides['api']).not.toBe(local['api'])
    const { api, token } = besides as { api: string; token: string }
    const answer = await fetch(`${api}/v1/gateways`, { headers: { authorization: `Bearer ${token}` } })
    expect(answer.status).toBe(200)
  })

  test('G1: with --roll-back the old key is the one that counts again, and no request is lost; Ctrl-C stops everything', async () => {
    await eventually(() => second.stdout().trimEnd().endsWith('}'), 'the report', 5 * MINUTE)
    const { stage, failed, repeatedWithOldKey, ok, timeline } = second.report()
    expect({ stage, failed, ok }).toEqual({ stage: 'rolled-back', failed: 0, ok: true })
    expect(timeline.find((entry) => entry.stage === 'rolling-back')?.reason).toBe('the new key is refused')
    expect(repeatedWithOldKey).toBeGreaterThan(0)
    expect(readdirSync(join(state, '2', 'logs'))).toEqual(readdirSync(join(state, 'logs')))
    expect(second.processes().length).toBeGreaterThan(7)
    second.child.kill('SIGINT')
    // npm hands the same one on.
    second.child.kill('SIGINT')
    expect(await second.ended).toBe(0)
    await nothingLeftOf(second)
    expect(existsSync(join(state, '2', 'local.json'))).toBe(false)
    for (const log of readdirSync(join(state, '2', 'logs')).filter((name) => /^(api|rotation|usage|gateway)/.test(name)))
      expect(readFileSync(join(state, '2', 'logs', log), 'utf8')).toMatch(/"(stopped|gateway drains)"/)
  })
})

describe.skipIf(process.platform !== 'linux')('when something ends it', () => {
  const state = newState()

  test('nothing is left 15 s after it was killed, and the next run has its place; when a process dies, that run ends', async () => {
    const killed = await start('node', [], { state })
    await killed.ready()
    await eventually(() => killed.stdout().includes('clients call'), 'the clients', 2 * MINUTE)
    expect(killed.processes().length).toBeGreaterThan(8)
    killed.child.kill('SIGKILL')
    await nothingLeftOf(killed)
    expect(existsSync(join(state, 'local.json'))).toBe(false)

    const next = await start('node', ['--once', '--json'], { state })
    await next.ready()
    const gateway = next.processes().find(({ command }) => command.endsWith('gateway/src/main.ts'))
    if (gateway === undefined) throw new Error('there is no gateway')
    process.kill(gateway.pid, 'SIGKILL')
    expect(await next.ended).toBe(1)
    expect(next.stderr()).toMatch(/gateway-\d has ended \(SIGKILL\): see .*\/logs\/gateway-\d\.log\n$/)
    await nothingLeftOf(next)
  })

  test('Ctrl-C while it starts stops what has started', async () => {
    const early = await start('node', ['--once'], { state })
    await eventually(
      () => early.processes().some(({ command }) => command.endsWith('sample-api.ts')),
      'the first process',
      4 * MINUTE,
    )
    early.child.kill('SIGINT')
    expect(await early.ended).toBe(130)
    await nothingLeftOf(early)
    expect(readdirSync(state).filter((name) => name !== 'logs')).toEqual([])
  })
})

test('an option that there is not: usage, and exit code 2', async () => {
  const child = spawn(process.execPath, ['infra/start.mjs', '--onse'], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text))
  expect(await new Promise((resolve) => child.once('close', resolve))).toBe(2)
  expect(said).toMatch(/^Unknown option '--onse'.*\n\nnpm start -- \[--once\] \[--roll-back\] \[--json\]\n/)
})
