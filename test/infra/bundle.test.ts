/** The command and the processes start from bundles of their sources (docs/adr/0009): the same programs, never old ones. */
import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { freshToken, ROOT, temporaryDirectory, writeFiles } from '../cli/scanning.ts'

const { path: temporary, remove } = temporaryDirectory()
afterAll(remove)

/** Making one, or reading all sources without one, takes long on a busy machine. */
const PATIENCE_MS = 300_000

/** A copy of what they are made of, with the installed packages of this repository. */
const copy = join(temporary, 'copy')
const rooms = [
  'activities',
  'api',
  'cli',
  'client',
  'contract',
  'gateway',
  'infra',
  'planning',
  'registry',
  'workers',
  'workflows',
]
for (const folder of rooms) cpSync(join(ROOT, folder), join(copy, folder), { recursive: true })
for (const file of ['package.json', 'package-lock.json', 'tsconfig.json']) cpSync(join(ROOT, file), join(copy, file))
const modules = join(copy, 'node_modules')
mkdirSync(join(modules, '@keyturn'), { recursive: true })
for (const name of readdirSync(join(ROOT, 'node_modules'))) {
  if (name !== '@keyturn') symlinkSync(join(ROOT, 'node_modules', name), join(modules, name))
}
for (const name of ['client', 'contract', 'gateway']) symlinkSync(join(copy, name), join(modules, '@keyturn', name))

const tree = join(temporary, 'tree')
writeFiles(tree, { a: freshToken('kt'), b: freshToken('zz') })

const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> =>
  new Promise((resolve) => {
    execFile(process.execPath, args, { cwd: tree, env: { PATH: process.env['PATH'], ...env } }, (_, stdout, stderr) =>
      resolve(stdout.replace(/ key .*/g, '') + stderr),
    )
  })
const scanned = (): Promise<string> => run([join(copy, 'cli/keyturn.js'), 'scan', '.'])
const status = (): Promise<string> =>
  run([join(copy, 'cli/keyturn.js'), 'status'], { KEYTURN_API: 'http://127.0.0.1:9', KEYTURN_TOKEN: 'any' })
const collector = (): Promise<string> => run([join(copy, 'infra/program.mjs'), 'workers/usage-collector.ts'])

const bundles = (): string[] => readdirSync(join(copy, '.keyturn')).sort()
const named = (name: string): unknown => expect.stringMatching(new RegExp(`^${name}-[0-9a-f]{16}$`))

const SCANNED = 'a:1:1\n1 token in 2 files, 0.0 MB\n'
const STATUS = 'The API at 127.0.0.1:9 does not answer'
const COLLECTOR = 'KEYTURN_POSTGRES_URL: not set'

test('one is made at the first call, by one of those that come at once; kept; and made anew when a source has changed', async () => {
  expect(await Promise.all([scanned(), scanned(), scanned()])).toEqual([SCANNED, SCANNED, SCANNED])
  const first = bundles()
  expect(first).toEqual([named('scan')])
  const source = join(copy, 'contract/src/token.ts')
  const text = readFileSync(source, 'utf8')
  writeFileSync(source, text.replace("DEFAULT_BRAND = 'kt'", "DEFAULT_BRAND = 'zz'"))
  expect(await scanned()).toBe(SCANNED.replace('a:', 'b:'))
  expect(bundles()).toHaveLength(2)
  writeFileSync(source, text)
  expect(await scanned()).toBe(SCANNED)
  expect(bundles()).toHaveLength(2)
})

test('scan loads nothing that reads TypeScript or talks to servers', () => {
  for (const directory of bundles()) {
    for (const file of readdirSync(join(copy, '.keyturn', directory)).filter((name) => name.endsWith('.mjs'))) {
      const text = readFileSync(join(copy, '.keyturn', directory, file), 'utf8')
      expect(text).not.toMatch(/typebox|undici|kafkajs|temporalio|from "pg"/)
    }
  }
})

test(
  'the other commands and the processes have theirs; an error names the line that was written',
  async () => {
    expect(await status()).toContain(STATUS)
    expect(await collector()).toContain(COLLECTOR)
    expect(bundles()).toEqual([named('command'), named('programs'), named('scan'), named('scan')])
    const source = join(copy, 'workers/usage-collector.ts')
    const text = readFileSync(source, 'utf8')
    // Before it looks at its configuration.
    writeFileSync(
      source,
      text.replace('\nif (isProgram', "\nif (process.argv.length > 0) throw new Error('on purpose')\nif (isProgram"),
    )
    const line = text.slice(0, text.indexOf('\nif (isProgram')).split('\n').length + 1
    expect(await collector()).toContain(`workers/usage-collector.ts:${line}:`)
    writeFileSync(source, text)
  },
  PATIENCE_MS,
)

test(
  'where none can be kept, everything runs from its sources',
  async () => {
    rmSync(join(copy, '.keyturn'), { recursive: true })
    writeFileSync(join(copy, '.keyturn'), 'a file is in the way')
    expect(await scanned()).toBe(SCANNED)
    expect(await status()).toContain(STATUS)
    expect(await collector()).toContain(COLLECTOR)
  },
  PATIENCE_MS,
)
