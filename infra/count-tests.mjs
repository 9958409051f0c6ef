/** Prints `N passed, N failed` from Vitest's JSON report; exits 1 when a test or a file failed, or nothing ran. No dependencies. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const path = process.argv[2] ?? fileURLToPath(new URL('../.keyturn/test-report.json', import.meta.url))

/** @type {{ status: string, assertionResults: { status: string }[] }[]} */
let files = []
try {
  files = JSON.parse(readFileSync(path, 'utf8')).testResults
} catch (error) {
  process.stderr.write(`There is no report of the tests at ${path} (${error.code ?? error.message}).\n`)
}
const tests = files.flatMap(({ assertionResults }) => assertionResults)
const passed = tests.filter(({ status }) => status === 'passed').length
// A file that could not be loaded, or whose hooks failed, holds no failed test and counts as one.
const brokenFiles = files.filter(
  ({ status, assertionResults }) => status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
).length
const failed = tests.filter(({ status }) => status === 'failed').length + brokenFiles
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
