import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { DRILLS } from '../../cli/drills.ts'
import { startApiServer } from '../../workers/api-server.ts'
import { startRotationWorker } from '../../workers/rotation-worker.ts'
import type { House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../support/processes.ts'
import { emptyDirectory, runKeyturn } from './office.ts'

vi.setConfig({ testTimeout: 5 * 60_000, hookTimeout: 5 * 60_000 })

let house: House
let api: Awaited<ReturnType<typeof startApiServer>>
let worker: Awaited<ReturnType<typeof startRotationWorker>>
let gateway: GatewayProcess
let upstream: Awaited<ReturnType<typeof startUpstream>>
const directory = emptyDirectory()
const local = join(directory.path, '.keyturn', 'local.json')
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
  upstream = await startUpstream()
  api = await startApiServer({ ...house.config, publicUrl: 'http://127.0.0.1:0' }, house.log)
  // The worker tells clients where the API is.
  worker = await startRotationWorker({ ...house.config, publicUrl: api.url }, house.log)
  gateway = await startGatewayProcess(house, 'gw-1', { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
  mkdirSync(join(directory.path, '.keyturn'))
  writeFileSync(
    local,
    JSON.stringify({
      api: api.url,
      token: house.config.operatorToken,
      gateways: [gateway.url],
      kafka: house.config.kafkaBrokers,
      temporal: house.config.temporalAddress,
      postgres: house.config.postgresUrl,
    }),
  )
})
afterAll(async () => {
  await gateway.stop()
  upstream.server.close()
  await worker.stop()
  await api.stop()
  await house.close()
  directory.remove()
})

const drill = (args: readonly string[], env: Record<string, string> = {}) =>
  runKeyturn(['drill', ...args], { cwd: directory.path, env })
/** The help of the command that a line begins with; nothing when there is no such command. */
async function helpFor(words: readonly string[]): Promise<string> {
  const command = words.slice(0, ['gateway', 'audit', 'leak', 'rollover'].includes(words[0] ?? '') ? 2 : 1)
  const { code, stdout } = await runKeyturn([...command, '--help'], { cwd: directory.path })
  return code === 0 ? stdout : ''
}
const optionsIn = (words: readonly string[]): string[] => words.filter((word) => /^--[a-z]/.test(word))

describe('keyturn drill', () => {
  test.each(Object.keys(DRILLS))('%s: ends in a checklist with ticks, on the local stack', async (name) => {
    const { code, stdout, stderr } = await drill([name])
    expect(stdout + stderr).not.toContain('✗')
    expect(stdout).toMatch(/^(\d+) of \1: practised$/m)
    expect(stdout.match(/^✓ /gm)?.length).toBe(8)
    expect(code).toBe(0)
  })

  test('a step that fails is crossed, and the exit code says so', async () => {
    const before = readFileSync(local, 'utf8')
    // A gateway that accepts whatever comes.
    const { gateways, ...rest } = JSON.parse(before) as { gateways: string[] }
    writeFileSync(local, JSON.stringify({ ...rest, gateways: [...gateways, upstream.url] }))
    onTestFinished(() => writeFileSync(local, before))
    const { code, stdout } = await drill(['insider', '--within', '15s'])
    expect(stdout).toContain('✗ every gateway refuses the key')
    expect(stdout).toContain('✓ the rotation is completed')
    expect(stdout).toMatch(/^1 of 8 failed$/m)
    expect(code).toBe(1)
  })

  test('refuses to run anywhere else', async () => {
    const named = await drill(['insider'], { KEYTURN_API: 'http://127.0.0.1:9', KEYTURN_TOKEN: 'sixteen-or-more-characters' })
    expect([named.code, named.stderr]).toEqual([2, expect.stringContaining('Unset KEYTURN_API, KEYTURN_TOKEN')])
    const empty = emptyDirectory()
    const nowhere = await runKeyturn(['drill', 'insider'], { cwd: empty.path })
    empty.remove()
    expect([nowhere.code, nowhere.stderr]).toEqual([2, expect.stringContaining('Run `npm start`')])
    expect((await drill(['nothing'])).code).toBe(2)
  })
})

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
