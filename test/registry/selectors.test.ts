import { type Selector, selects } from '@keyturn/contract'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { selectorSql } from '../../registry/selectors.ts'
import { openTestDatabase } from './world.ts'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const CLIENTS = ['cli_aaaaaaaaaaaaaaaa', 'cli_bbbbbbbbbbbbbbbb']
const scope = fc.constantFrom('trade', 'trade:*', 'trade:write', 'trade:write:all', 'trades', 'read:prices')
const labels = fc.dictionary(fc.constantFrom('team', 'desk'), fc.constantFrom('rates', 'fx'), { noNullPrototype: true })
const credential = fc.record({
  clientId: fc.constantFrom(...CLIENTS),
  environment: fc.constantFrom('dev', 'prod'),
  scopes: fc.uniqueArray(scope, { maxLength: 3 }),
  labels,
})
const selector: fc.Arbitrary<Selector> = fc.record(
  {
    client: fc.subarray(CLIENTS, { minLength: 1 }),
    environment: fc.constantFrom('dev', 'prod'),
    scope: fc.oneof(scope, fc.constant('*'), fc.uniqueArray(scope, { minLength: 1, maxLength: 2 })),
    labels,
  },
  { requiredKeys: [] },
)

test('the registry selects the same credentials as the contract', async () => {
  await fc.assert(
    fc.asyncProperty(selector, credential, async (given, one) => {
      const values: unknown[] = [one.clientId, one.environment, one.scopes, JSON.stringify(one.labels)]
      const condition = selectorSql(given, values)
      const [row] = await db.query<{ selected: boolean }>(
        `select ${condition} as selected
         from (select $1::text as client_id, $2::text as environment, $3::text[] as scopes, $4::jsonb as labels) c`,
        values,
      )
      expect(row?.selected).toBe(selects(given, one))
    }),
    { numRuns: 300 },
  )
})
