/** `npm test`: installs what is missing, then runs every check and the tests. Arguments go to Vitest. */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { ensureInstalled, npmCommand, ROOT, requireNode, run } from './bootstrap.mjs'

const CHECKS = ['typecheck', 'lint', 'imports', 'unused']
const AT_ONCE = 2

requireNode()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stopEarly)
process.chdir(ROOT)
rmSync(join(ROOT, '.keyturn', 'test-report.json'), { force: true })
await ensureInstalled()

/** @type {string[]} */
const failed = []
const waiting = [...CHECKS]
async function runChecks() {
  for (let check = waiting.shift(); check !== undefined; check = waiting.shift()) {
    const npm = npmCommand(['run', '--silent', check])
    const { code, output } = await run(npm.command, npm.args)
    if (code !== 0) failed.push(check)
    process.stdout.write(code === 0 ? `${check}: passed\n` : `${output}\n${check}: failed\n`)
  }
}
await Promise.all(Array.from({ length: AT_ONCE }, runChecks))

process.on('exit', () => {
  if (failed.length === 0) return
  process.stdout.write(`failed checks: ${failed.join(', ')}\n`)
  process.exitCode = process.exitCode || 1
})
for (const signal of ['SIGINT', 'SIGTERM']) process.removeListener(signal, stopEarly)
// In this process, not in a child: signals and the exit code need no passing on.
process.argv = [process.execPath, join(ROOT, 'node_modules', 'vitest', 'vitest.mjs'), 'run', ...process.argv.slice(2)]
await import('../node_modules/vitest/vitest.mjs')

function stopEarly() {
  process.exit(130)
}
