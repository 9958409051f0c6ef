/** Another language implements the token from contract/README.md and the vectors alone. */
import { execFileSync, spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { vectors } from './vectors.ts'

const script = fileURLToPath(new URL('vectors.py', import.meta.url))
const room = fileURLToPath(new URL('../../contract/vectors/', import.meta.url))
const python = spawnSync('python3', ['--version']).status === 0

test.skipIf(!python)('an implementation in Python passes all token vectors', () => {
  const { good, bad } = vectors<{ good: unknown[]; bad: unknown[] }>('tokens')
  const said = execFileSync('python3', [script, room], { encoding: 'utf8' })
  expect(said.trim()).toBe(`${good.length} good, ${bad.length} bad, 0 wrong`)
})
