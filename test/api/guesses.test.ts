/** Claims and keys that are none, one after the other. */
import { randomBase62 } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ServedApi, serveApi } from '../support/api.ts'
import type { House } from '../support/house.ts'
import { openHouse } from '../support/open-house.ts'
import { newCredential } from './support.ts'

const MOST = 20

let house: House
let behindProxy: ServedApi
let open: ServedApi
beforeAll(async () => {
  house = await openHouse({ time: 'real', gateways: 0, worker: false, collector: false })
  behindProxy = await serveApi(house, { config: { trustedProxies: 1 } })
  open = await serveApi(house)
})
afterAll(async () => {
  await behindProxy.stop()
  await open.stop()
  await house.close()
})

const guess = (from: string, api = behindProxy) =>
  api.client.post(`/v1/claims/${randomBase62(43)}`, undefined, { token: 'none', headers: { 'x-forwarded-for': from } })

test('an address that shows 20 has to wait, also with a right one; others do not', async () => {
  for (let i = 0; i < MOST; i++) expect((await guess('192.0.2.7')).status).toBe(404)
  const refused = await guess('192.0.2.7')
  expect([refused.status, refused.headers.get('retry-after'), refused.body]).toEqual([
    429,
    '60',
    expect.objectContaining({ code: 'too-many-guesses' }),
  ])
  const { claim } = await newCredential(behindProxy.client)
  const redeem = (from: string) =>
    behindProxy.client.post(`/v1/claims/${claim}`, undefined, { token: 'none', headers: { 'x-forwarded-for': from } })
  expect((await redeem('192.0.2.7')).status).toBe(429)
  expect((await redeem('192.0.2.8')).status).toBe(200)
  const [used] = await house.db.query<{ from: string }>(`select detail ->> 'from' as from from audit where action = 'claim.used'`)
  expect(used?.from).toMatch(/^192\.0\.2\.8 /)
})

test('keys count, too; of IPv6 everybody in one network', async () => {
  for (let i = 0; i < MOST; i++) {
    const headers = { 'x-forwarded-for': `2001:db8::${i}` }
    expect((await behindProxy.client.post('/v1/successor', undefined, { token: randomBase62(43), headers })).status).toBe(401)
  }
  expect((await guess('2001:db8:0:0:1::1')).status).toBe(429)
  expect((await guess('2001:db8:0:1::1')).status).toBe(404)
})

test('where no proxy is believed, nobody gets another address by saying so', async () => {
  for (let i = 0; i < MOST; i++) expect((await guess(`198.51.100.${i}`, open)).status).toBe(404)
  expect((await guess('198.51.100.99', open)).status).toBe(429)
})
