/** This repository holds no token but the contract's vectors and the examples, which `.keyturnignore` accepts one by one. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { places, ROOT, scan } from '../cli/scanning.ts'
import { vectors } from '../contract/vectors.ts'

const { good } = vectors<{ good: { brand: string }[] }>('tokens')
const brands = [...new Set(['kt', 'tm', ...good.map(({ brand }) => brand)])]

test('nothing is found in the files of this repository', async () => {
  const report = await scan([ROOT], { brands })
  expect(places(report)).toEqual([])
  expect(report.unread).toBe(0)
  expect(report.scanned.files).toBeGreaterThan(100)
  expect(report.skipped.accepted).toBeGreaterThan(good.length)
})

test('the command says so too', () => {
  const command = [join(ROOT, 'cli/keyturn.js'), 'scan', '.', '--json']
  // It throws when the exit code is another than 0.
  const report = JSON.parse(execFileSync(process.execPath, command, { cwd: ROOT, encoding: 'utf8' }))
  expect(report).toMatchObject({ found: 0, skipped: { accepted: expect.any(Number) } })
  expect(report.skipped.accepted).toBeGreaterThan(0)
})
