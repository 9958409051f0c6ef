/** The keys of session tokens when a person does not wait for their turn. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Database } from '../../registry/database.ts'
import { publishedKeys, rotateSigningKey, signingKeyAt } from '../../registry/signing-keys.ts'
import { at, DAY, HOUR, openTestDatabase, sealer } from './world.ts'

const MINUTE = 60_000
const PERIOD = 30 * DAY

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

const terms = (ms: number) => ({ sealer, periodMs: PERIOD, at: at(ms) })
const published = async (ms: number): Promise<string[]> => (await publishedKeys(db, terms(ms))).map(({ kid }) => kid)
const signing = async (ms: number): Promise<string> => (await signingKeyAt(db, terms(ms))).kid

test('one that is published already signs sooner, and the one before it is gone as much sooner', async () => {
  const [first = ''] = await published(0)
  const asked = PERIOD - HOUR / 2
  const [, second = ''] = await published(asked)
  expect(await signing(asked)).toBe(first)
  const order = { ...terms(asked), actor: 'ann', reason: 'test', compromised: false }
  expect(await rotateSigningKey(db, order)).toEqual({ kid: second, signsFrom: at(asked + 10 * MINUTE) })
  // Again changes nothing: it is soon enough.
  expect(await rotateSigningKey(db, order)).toEqual({ kid: second, signsFrom: at(asked + 10 * MINUTE) })
  expect([await signing(asked + 10 * MINUTE - 1), await signing(asked + 10 * MINUTE)]).toEqual([first, second])
  // Until the last token that the first one signed is dead, an hour later, and clocks that differ are done with it.
  const gone = asked + 10 * MINUTE + HOUR + 5 * MINUTE
  expect(await published(gone - 1)).toEqual([first, second])
  expect(await published(gone)).toEqual([second])
})

test('what was published long enough is not published to whoever finds that something is due, either', async () => {
  await db.query('delete from signing_keys')
  const [first = ''] = await published(0)
  const [, second = ''] = await published(PERIOD - HOUR)
  // Nobody has asked meanwhile: the private half of the first one is to be wiped yet, and its row not removed before five minutes more.
  const gone = PERIOD + HOUR + 5 * MINUTE
  expect(await published(gone)).toEqual([second])
  expect(await db.query('select ciphertext from signing_keys where kid = $1', [first])).toEqual([{ ciphertext: null }])
})
