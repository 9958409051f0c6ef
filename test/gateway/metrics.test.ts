/** What a gateway tells Prometheus: documented, and nothing by which a key or a caller could be known. */
import { generateKeyPairSync } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { openBench } from './support.ts'

const readme = readFileSync(new URL('../../gateway/README.md', import.meta.url), 'utf8')
const [, told = ''] = /^## What it tells\n(.*?)^## /ms.exec(readme) ?? []

test('every metric is in the README, and no label has a value from outside', async () => {
  const { publicKey } = generateKeyPairSync('ed25519')
  const nowhere = 'http://127.0.0.1:9'
  const { metrics } = (await openBench()).gateway({
    jwksUrl: nowhere,
    fallback: { url: nowhere, token: 'some-token', publicKey },
  })
  const names = metrics.getMetricsAsArray().map(({ name }) => name)
  const documented = [...told.matchAll(/`([a-z_]+)(?:\{[a-z]+\})?`/g)].map(([, name]) => `keyturn_gateway_${name}`)
  expect(names.filter((name) => !documented.includes(name))).toEqual([])
  expect(documented.filter((name) => name.endsWith('_total') && !names.includes(name))).toEqual([])
  const labels = [...(await metrics.metrics()).matchAll(/^keyturn_gateway_\w+\{([^}]*)\}/gm)].map(([, label]) => label)
  expect(labels.length).toBeGreaterThan(10)
  for (const label of labels) expect(label).toMatch(/^(?:outcome|state|reason)="[a-z-]+"$/)
})
