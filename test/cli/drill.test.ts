import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { DRILLS } from '../../cli/drills.ts'
import { connectControl } from '../../cli/local-control.ts'
import { createDrilling } from '../../infra/demo/drilling.ts'
import { createProcesses } from '../../infra/demo/processes.ts'
import { type Demo, startDemo } from '../demo/demo.ts'
import { eventually } from '../support/house.ts'
import { startUpstream } from '../support/processes.ts'
import { emptyDirectory, runKeyturn, startKeyturn } from './office.ts'

const MINUTE = 60_000
vi.setConfig({ testTimeout: 10 * MINUTE, hookTimeout: 10 * MINUTE })

/** How long a point of a checklist may take on a busy machine. */
const WITHIN = ['--within', '4m']
const directory = emptyDirectory()
const state = join(directory.path, '.keyturn')
let demo: Demo
let local: { api: string; token: string; gateways: string[] }
beforeAll(async () => {
  mkdirSync(state)
  demo = await startDemo('node', [], { state, servers: 'own' })
  local = (await demo.ready()) as typeof local
})
afterAll(async () => {
  demo.child.kill('SIGINT')
  await demo.ended
  directory.remove()
})

const drill = (args: readonly string[], env: Record<string, string> = {}) =>
  runKeyturn(['drill', ...args], { cwd: directory.path, env })
async function practised(name: string): Promise<void> {
  const { code, stdout, stderr } = await drill([name, ...WITHIN])
  expect(stdout + stderr).not.toContain('✗')
  expect(stdout).toMatch(/^(\d+) of \1: practised$/m)
  expect(stdout.match(/^✓ /gm)?.length).toBeGreaterThanOrEqual(8)
  expect(code).toBe(0)
}
const NAMES = Object.keys(DRILLS)
/** Those that stop servers of the stack. */
const STOPPING = NAMES.filter((name) => DRILLS[name]?.servers !== undefined)
const HARMLESS = NAMES.filter((name) => !STOPPING.includes(name))
async function readiness(): Promise<unknown> {
  return (await fetch(`${local.api}/readyz`)).json()
}
const ALL_READY = { ready: true, postgres: 'ok', kafka: 'ok', temporal: 'ok' }
const untilAllReady = (): Promise<unknown> =>
  eventually(async () => JSON.stringify(await readiness()) === JSON.stringify(ALL_READY), 'all servers back', 4 * MINUTE)

/** The help of the command that a line begins with; nothing when there is no such command. */
async function helpFor(words: readonly string[]): Promise<string> {
  const command = words.slice(0, ['gateway', 'audit', 'leak', 'rollover'].includes(words[0] ?? '') ? 2 : 1)
  const { code, stdout } = await runKeyturn([...command, '--help'], { cwd: directory.path })
  return code === 0 ? stdout : ''
}
const optionsIn = (words: readonly string[]): string[] => words.filter((word) => /^--[a-z]/.test(word))

/** Commands in the playbooks: what stands in their blocks of code, a line each. */
const COMMANDS = readdirSync(new URL('../../docs/playbooks/', import.meta.url)).flatMap((file) => {
  const text = readFileSync(new URL(`../../docs/playbooks/${file}`, import.meta.url), 'utf8')
  const blocks = [...text.matchAll(/```sh\n([^`]*)```/g)].flatMap(([, block = '']) =>
    block.split('\n').map((line) => line.trim()),
  )
  return blocks.filter((line) => line.startsWith('keyturn ')).map((line) => ({ file, line }))
})
test('every command of the playbooks is there, with its options', async () => {
  expect(COMMANDS.length).toBeGreaterThan(10)
  const helps = new Map<string, Promise<string>>()
  const missing: string[] = []
  for (const { file, line } of COMMANDS) {
    const words = line.split(/\s+/).slice(1)
    const name = words.slice(0, 2).join(' ')
    helps.set(name, helps.get(name) ?? helpFor(words))
    const help = (await helps.get(name)) ?? ''
    if (help === '' || !optionsIn(words).every((option) => help.includes(option))) missing.push(`${file}: ${line}`)
  }
  expect(missing).toEqual([])
})

describe('keyturn drill', () => {
  test(`${HARMLESS.join(', ')}: side by side, each ends in a checklist with ticks`, async () => {
    await Promise.all(HARMLESS.map(practised))
  })

  test('a step that fails is crossed, and the exit code says so', async () => {
    // A gateway that accepts whatever comes.
    const upstream = await startUpstream()
    const lenient = emptyDirectory()
    onTestFinished(() => {
      upstream.server.close()
      lenient.remove()
    })
    writeFileSync(join(lenient.path, 'local.json'), JSON.stringify({ ...local, gateways: [...local.gateways, upstream.url] }))
    const { code, stdout } = await drill(['insider', '--within', '15s'], { KEYTURN_STATE: lenient.path })
    expect(stdout).toContain('✗ every gateway refuses the key')
    expect(stdout).toContain('✓ the rotation is completed')
    expect(stdout).toMatch(/^1 of 8 failed$/m)
    expect(code).toBe(1)
  })

  test('a process that it has restarted gets its own variables back', async () => {
    const logs = emptyDirectory()
    const processes = createProcesses(logs.path)
    onTestFinished(async () => {
      await processes.stopAll()
      logs.remove()
    })
    const ports: number[] = []
    const { PATH } = process.env
    processes.start({
      name: 'sample-api',
      file: 'infra/demo/sample-api.ts',
      env: { PATH, SAMPLE_API_REFUSES_NEW_KEYS: '1' },
      onLine: (line) => ports.push((JSON.parse(line) as { port: number }).port),
    })
    const statusOf = async (start: number): Promise<number> => {
      const port = await eventually(() => ports[start], `start ${start} of the API`, MINUTE)
      const ask = (key: string) =>
        fetch(`http://127.0.0.1:${port}/`, { headers: { 'keyturn-credential': 'one', 'keyturn-key-id': key } })
      await ask('first')
      return (await ask('second')).status
    }
    expect(await statusOf(0)).toBe(401)
    const drilling = createDrilling({ own: {}, processes, note: () => {} })
    await drilling.obey({ do: 'restart', process: 'sample-api', variables: { SAMPLE_API_REFUSES_NEW_KEYS: '' } })
    expect(await statusOf(1)).toBe(200)
    await drilling.putBack()
    expect(await statusOf(2)).toBe(401)
  })

  test('refuses to run anywhere else, and to stop what `npm start` has not started', async () => {
    const named = await drill(['insider'], { KEYTURN_API: 'http://127.0.0.1:9', KEYTURN_TOKEN: 'sixteen-or-more-characters' })
    expect([named.code, named.stderr]).toEqual([2, expect.stringContaining('Unset KEYTURN_API, KEYTURN_TOKEN')])
    const empty = emptyDirectory()
    onTestFinished(() => empty.remove())
    const nowhere = await runKeyturn(['drill', 'insider'], { cwd: empty.path })
    expect([nowhere.code, nowhere.stderr]).toEqual([2, expect.stringContaining('Run `npm start`')])
    writeFileSync(join(empty.path, 'local.json'), JSON.stringify(local))
    const deaf = await drill(['kafka-down'], { KEYTURN_STATE: empty.path })
    expect([deaf.code, deaf.stderr]).toEqual([1, expect.stringContaining('takes no orders from drills yet')])
    expect((await drill(['nothing'])).code).toBe(2)
    const drilling = createDrilling({ own: {}, processes: createProcesses(empty.path), note: () => {} })
    await expect(drilling.obey({ do: 'begin', servers: ['kafka'] })).rejects.toThrow('KEYTURN_KAFKA_BROKERS')
    await expect(drilling.obey({ do: 'stop', server: 'temporal' })).rejects.toThrow('KEYTURN_TEMPORAL_ADDRESS')
  })

  describe('with servers of the stack', () => {
    // Not under the rotation that `npm start` shows; the others ran beside it.
    beforeAll(() =>
      eventually(
        () => demo.stdout().includes('running on'),
        () => `the end of the rotation: ${demo.stdout()}${demo.stderr()}`,
        5 * MINUTE,
      ),
    )

    test.each(STOPPING)('%s: ends in a checklist with ticks, and all servers are back', async (name) => {
      await practised(name)
      expect(await readiness()).toEqual(ALL_READY)
    })

    test('a drill that is killed leaves the stack as it found it; while it runs, no other begins', async () => {
      const killed = startKeyturn(['drill', 'temporal-down'], { cwd: directory.path })
      await killed.says('✓ Temporal is away')
      const second = await drill(['kafka-down'])
      expect([second.code, second.stderr]).toEqual([1, expect.stringContaining('Another drill is under way')])
      killed.kill()
      await killed.finished
      await untilAllReady()
    })

    test('a drill that ends before it has recovered the registry leaves it as it was before', async () => {
      const control = await connectControl(state, ['postgres'])
      await control.order({ do: 'back-up' })
      await untilAllReady()
      const headers = { authorization: `Bearer ${local.token}`, 'content-type': 'application/json' }
      const created = await fetch(`${local.api}/v1/clients`, { method: 'POST', headers, body: '{"name":"later"}' })
      const { clientId } = (await created.json()) as { clientId: string }
      const status = async (): Promise<number> => (await fetch(`${local.api}/v1/clients/${clientId}`, { headers })).status
      await control.order({ do: 'restore' })
      await untilAllReady()
      expect(await status()).toBe(404)
      await control.end()
      await untilAllReady()
      expect(await status()).toBe(200)
    })
  })
})
