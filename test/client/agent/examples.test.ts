/** The configurations and units of docs/examples/agent can be used. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { parse } from 'yaml'
import { readAgentConfig } from '../../../client/src/agent.ts'
import { findOnPath } from '../../../infra/stack/tools.ts'

const read = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../../docs/examples/agent/${name}`, import.meta.url)), 'utf8')

test.each(['agent.yaml', 'agent.container.yaml'])('%s is a configuration', (name) => {
  expect(readAgentConfig(parse(read(name))).api).toBe('https://keys.example.com')
})

test('the configuration of the guide is one', () => {
  const guide = readFileSync(fileURLToPath(new URL('../../../docs/client-guide.md', import.meta.url)), 'utf8')
  const blocks = [...guide.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, text = '']) => parse(text))
  expect(blocks.map((block) => readAgentConfig(block).intervalMs)).toEqual([60_000])
})

test('the agent of the Compose file shares the keys and the process ids of its program', () => {
  const { services } = parse(read('compose.yaml')) as { services: Record<string, { volumes: string[]; pid?: string }> }
  expect(services['agent']).toMatchObject({ pid: 'service:shop', read_only: true })
  for (const { volumes } of Object.values(services)) expect(volumes).toContain('keys:/keys')
})

const analyze = findOnPath('systemd-analyze')
if (analyze === undefined) process.stderr.write('the unit for systemd is not checked: there is no systemd-analyze\n')
test.skipIf(analyze === undefined)('systemd takes the unit', () => {
  const directory = mkdtempSync(join(tmpdir(), 'keyturn-unit-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  const unit = join(directory, 'keyturn-agent@shop.service')
  writeFileSync(unit, read('keyturn-agent@.service').replace('/usr/bin/keyturn', '/usr/bin/true'))
  const said = execFileSync(analyze ?? '', ['verify', '--man=no', '--recursive-errors=no', unit], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  expect(said).toBe('')
})
