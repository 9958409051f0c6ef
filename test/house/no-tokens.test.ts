/** This repository holds no token but the contract's vectors and the examples, which `.keyturnignore` accepts one by one. */
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
