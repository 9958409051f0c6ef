/** `keyturn scan` starts from a bundle of its sources (docs/adr/0009): the same program, never an old one. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { freshToken, ROOT, temporaryDirectory, writeFiles } from './scanning.ts'

const { path: temporary, remove } = temporaryDirectory()
afterAll(remove)

/** A copy of what the command is made of, with the installed packages of this repository. */
const copy = join(temporary, 'copy')
for (const folder of ['cli', 'contract', 'infra']) cpSync(join(ROOT, folder), join(copy, folder), { recursive: true })
for (const file of ['package.json', 'package-lock.json', 'tsconfig.json']) cpSync(join(ROOT, file), join(copy, file))
const modules = join(copy, 'node_modules')
mkdirSync(join(modules, '@keyturn'), { recursive: true })
for (const name of readdirSync(join(ROOT, 'node_modules'))) {
  if (name !== '@keyturn') symlinkSync(join(ROOT, 'node_modules', name), join(modules, name))
}
symlinkSync(join(copy, 'contract'), join(modules, '@keyturn/contract'))

const tree = join(temporary, 'tree')
writeFiles(tree, { a: freshToken('kt'), b: freshToken('zz') })

const scanned = (): string => {
  const { stdout, stderr } = spawnSync(process.execPath, [join(copy, 'cli/keyturn.js'), 'scan', '.'], {
    cwd: tree,
    encoding: 'utf8',
  })
  return stdout.replace(/ key .*/g, '') + stderr
}
const bundles = (): string[] => readdirSync(join(copy, '.keyturn'))
const EXPECTED = 'a:1:1\n1 token in 2 files, 0.0 MB\n'

test('it is made at the first call, kept, and made anew when a source has changed', () => {
  expect(scanned()).toBe(EXPECTED)
  const first = bundles()
  expect(first).toEqual([expect.stringMatching(/^scan-[0-9a-f]{16}\.mjs$/)])
  expect(scanned()).toBe(EXPECTED)
  expect(bundles()).toEqual(first)
  const source = join(copy, 'contract/src/token.ts')
  const text = readFileSync(source, 'utf8')
  writeFileSync(source, text.replace("DEFAULT_BRAND = 'kt'", "DEFAULT_BRAND = 'zz'"))
  expect(scanned()).toBe(EXPECTED.replace('a:', 'b:'))
  expect(bundles()).toHaveLength(1)
  expect(bundles()).not.toEqual(first)
  writeFileSync(source, text)
})

test('it loads nothing that reads TypeScript or talks to servers', () => {
  scanned()
  const bundle = readFileSync(join(copy, '.keyturn', bundles()[0] ?? ''), 'utf8')
  expect(bundle).not.toMatch(/typebox|undici|kafkajs|temporalio|from "pg"/)
})

test('where none can be kept, the command runs from its sources', () => {
  rmSync(join(copy, '.keyturn'), { recursive: true })
  writeFileSync(join(copy, '.keyturn'), 'a file is in the way')
  expect(scanned()).toBe(EXPECTED)
})
