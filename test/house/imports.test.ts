/** The import rules find what they forbid, and nothing else: each case is a house of a few files, checked with the real configuration. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const config = fileURLToPath(new URL('../../.dependency-cruiser.cjs', import.meta.url))
const cruiser = fileURLToPath(new URL('../../node_modules/dependency-cruiser/bin/dependency-cruise.mjs', import.meta.url))

/** Files that others import; they import nothing. */
const STOCK = [
  'contract/src/index.ts',
  'contract/src/rotation.ts',
  'contract/src/token.ts',
  'planning/wheel.ts',
  'gateway/src/cache.ts',
  'client/src/store.ts',
  'registry/keys.ts',
  'activities/index.ts',
  'workflows/index.ts',
  'workers/rotation-worker.ts',
  'api/server.ts',
  'cli/keyturn.ts',
  'infra/config.ts',
  'infra/log.ts',
  'infra/topics.ts',
  'infra/stack/kafka.ts',
  'test/support/servers.ts',
  'bench/run.ts',
]

type How = 'value' | 'type' | 'dynamic'
type Case = readonly [from: string, to: string, how?: How]

const FORBIDDEN: readonly Case[] = [
  ['contract/', 'infra/config.ts'],
  ['contract/', 'gateway/src/cache.ts', 'type'],
  ['planning/', 'registry/keys.ts', 'type'],
  ['planning/', 'infra/config.ts'],
  ['gateway/src/', 'planning/wheel.ts'],
  ['gateway/src/', 'registry/keys.ts'],
  ['gateway/src/', 'infra/log.ts'],
  ['client/src/', 'gateway/src/cache.ts', 'type'],
  ['client/src/', 'contract/src/index.ts'],
  ['client/src/', 'contract/src/token.ts'],
  ['client/src/', 'node:fs'],
  ['registry/', 'activities/index.ts'],
  ['registry/', 'infra/log.ts'],
  ['activities/', 'workflows/index.ts', 'type'],
  ['activities/', 'api/server.ts'],
  ['activities/', 'infra/stack/kafka.ts'],
  ['workflows/', 'activities/index.ts'],
  ['workflows/', 'activities/index.ts', 'dynamic'],
  ['workflows/', 'registry/keys.ts', 'type'],
  ['workflows/', 'infra/config.ts'],
  ['workflows/', 'node:crypto'],
  ['workflows/', 'contract/src/index.ts'],
  ['workflows/', 'contract/src/token.ts'],
  ['api/', 'workflows/index.ts'],
  ['api/', 'activities/index.ts'],
  ['api/', 'infra/topics.ts'],
  ['workers/', 'cli/keyturn.ts'],
  ['cli/', 'registry/keys.ts'],
  ['cli/', 'client/src/store.ts'],
  ['cli/', 'infra/config.ts'],
  ['cli/', 'contract/src/index.ts'],
  ['cli/', 'workers/rotation-worker.ts'],
  ['cli/', 'api/server.ts', 'dynamic'],
  ['cli/', 'workflows/index.ts', 'type'],
  ['infra/', 'cli/keyturn.ts'],
  ['infra/', 'test/support/servers.ts'],
  ['workers/', 'bench/run.ts'],
]

const ALLOWED: readonly Case[] = [
  ['contract/', 'contract/src/index.ts'],
  ['gateway/src/', 'contract/src/index.ts'],
  ['planning/', 'contract/src/index.ts'],
  ['activities/', 'planning/wheel.ts'],
  ['api/', 'planning/wheel.ts'],
  ['client/src/', 'contract/src/index.ts', 'type'],
  ['client/src/stores/', 'node:fs'],
  ['registry/', 'contract/src/index.ts'],
  ['registry/', 'infra/config.ts'],
  ['registry/', 'node:crypto'],
  ['activities/', 'registry/keys.ts'],
  ['activities/', 'infra/topics.ts'],
  ['workflows/', 'activities/index.ts', 'type'],
  ['workflows/', 'contract/src/rotation.ts'],
  ['workflows/', 'contract/src/index.ts', 'type'],
  ['api/', 'workflows/index.ts', 'type'],
  ['api/', 'registry/keys.ts'],
  ['api/', 'infra/log.ts'],
  ['workers/', 'activities/index.ts'],
  ['workers/', 'workflows/index.ts'],
  ['workers/', 'api/server.ts'],
  ['cli/', 'contract/src/rotation.ts'],
  ['cli/', 'contract/src/index.ts', 'type'],
  ['cli/', 'infra/stack/kafka.ts', 'dynamic'],
  ['cli/', 'registry/keys.ts', 'dynamic'],
  ['cli/', 'workers/rotation-worker.ts', 'dynamic'],
  ['test/', 'cli/keyturn.ts'],
  ['test/', 'workflows/index.ts'],
  ['bench/', 'test/support/servers.ts'],
]

interface Violation {
  readonly from: string
  readonly to: string
  readonly rule: { readonly name: string }
}

const all = [...FORBIDDEN, ...ALLOWED]
const fileOf = (one: Case): string => `${one[0]}case-${all.indexOf(one)}.ts`
const label = ([from, to, how = 'value']: Case): string => `${from} → ${to} (${how})`

function source([from, to, how = 'value']: Case): string {
  const path = to.startsWith('node:') ? to : '../'.repeat(from.split('/').length - 1) + to
  if (how === 'type') return `import type { Thing } from '${path}'\nexport type Mine = Thing\n`
  if (how === 'dynamic') return `export const load = () => import('${path}')\n`
  return `import * as other from '${path}'\nexport const mine = other\n`
}

let house = ''
let violations: Violation[] = []

beforeAll(() => {
  house = mkdtempSync(join(tmpdir(), 'keyturn-imports-'))
  const write = (path: string, text: string): void => {
    mkdirSync(dirname(join(house, path)), { recursive: true })
    writeFileSync(join(house, path), text)
  }
  for (const path of STOCK) write(path, 'export type Thing = string\nexport const thing = 1\n')
  for (const one of all) write(fileOf(one), source(one))
  write('registry/circle-a.ts', "import { b } from './circle-b.ts'\nexport const a = () => b\n")
  write('registry/circle-b.ts', "import { a } from './circle-a.ts'\nexport const b = () => a\n")
  write('registry/dead-end.ts', "import { gone } from './gone.ts'\nexport const end = gone\n")
  const rooms = [...new Set(STOCK.map((path) => path.split('/')[0] ?? ''))]
  const run = spawnSync(process.execPath, [cruiser, '--config', config, '--output-type', 'json', ...rooms], {
    cwd: house,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  if (run.stdout === '') throw new Error(run.stderr)
  violations = (JSON.parse(run.stdout) as { summary: { violations: Violation[] } }).summary.violations
}, 60_000)

afterAll(() => rmSync(house, { recursive: true, force: true }))

const rulesBrokenBy = (file: string): string[] => violations.filter(({ from }) => from === file).map(({ rule }) => rule.name)

describe('import rules', () => {
  test.each(FORBIDDEN.map((one) => [label(one), one] as const))('refuse %s', (_, one) => {
    expect(rulesBrokenBy(fileOf(one))).not.toEqual([])
  })

  test.each(ALLOWED.map((one) => [label(one), one] as const))('allow %s', (_, one) => {
    expect(rulesBrokenBy(fileOf(one))).toEqual([])
  })

  test('refuse cycles and imports that lead nowhere', () => {
    expect(rulesBrokenBy('registry/circle-a.ts')).toEqual(['no-cycles'])
    expect(rulesBrokenBy('registry/dead-end.ts')).toEqual(['no-dead-ends'])
  })
})
