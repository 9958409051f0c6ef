/**
 * `npm run test:long`: the tests of chance and of endurance, as often as it takes to believe them, one file after the other. Prints
 * what was run, as a table for docs/proof.md. KEYTURN_TEST_SEED repeats a run; arguments go to Vitest.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ensureInstalled, ROOT, requireNode, run } from './bootstrap.mjs'

requireNode()
process.chdir(ROOT)
await ensureInstalled()

const seed = process.env.KEYTURN_TEST_SEED ?? String(Math.floor(Math.random() * 2 ** 31))
const report = join(ROOT, '.keyturn', 'long-report.json')
/** Whoever knows of long runs says so in its text. */
const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.ts'))
  .map((file) => join('test', file))
  .filter((file) => /KEYTURN_TEST_LONG|support\/runs/.test(readFileSync(file, 'utf8')))
  .sort()

process.stdout.write(`seed ${seed}: ${files.join(', ')}\n`)
const { status } = spawnSync(
  process.execPath,
  [
    join(ROOT, 'node_modules', 'vitest', 'vitest.mjs'),
    'run',
    '--maxWorkers=1',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...files,
    ...process.argv.slice(2),
  ],
  { stdio: 'inherit', env: { ...process.env, KEYTURN_TEST_LONG: '1', KEYTURN_TEST_SEED: seed } },
)

const { output: commit } = await run('git', ['rev-parse', '--short', 'HEAD'])
/** @type {{ name: string, assertionResults: { status: string, fullName: string, duration?: number }[] }[]} */
const results = JSON.parse(readFileSync(report, 'utf8')).testResults
process.stdout.write(`\n${new Date().toISOString().slice(0, 10)}, commit ${commit.trim()}, seed ${seed}\n\n`)
process.stdout.write('| test | result | took |\n| --- | --- | --- |\n')
for (const { assertionResults } of results) {
  for (const { status: result, fullName, duration = 0 } of assertionResults) {
    if (result !== 'passed' && result !== 'failed') continue
    process.stdout.write(`| ${fullName.trim()} | ${result} | ${Math.round(duration / 1000)} s |\n`)
  }
}
process.exit(status ?? 1)
