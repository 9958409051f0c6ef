/**
 * The API behind the gateways: it answers with a price. With `SAMPLE_API_REFUSES_NEW_KEYS=1` it has a list of its own that has
 * not caught up, as a third party's might: it knows the key ids that it saw first, and answers 401 to any other.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { HEADERS } from '@keyturn/contract/headers'

const refusesNewKeys = process.env['SAMPLE_API_REFUSES_NEW_KEYS'] === '1'
const firstKeyOf = new Map<string, string>()

const server = createServer((request, response) => {
  const credential = String(request.headers[HEADERS.credential] ?? '')
  const keyId = String(request.headers[HEADERS.keyId] ?? '')
  if (!firstKeyOf.has(credential)) firstKeyOf.set(credential, keyId)
  const known = !refusesNewKeys || firstKeyOf.get(credential) === keyId
  request.resume()
  response.writeHead(known ? 200 : 401, { 'content-type': 'application/json' })
  response.end(
    JSON.stringify(
      known ? { symbol: 'BTC-USD', price: (60_000 + Math.random() * 1_000).toFixed(2) } : { error: 'this key is not on my list' },
    ),
  )
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: (server.address() as AddressInfo).port })))
process.on('SIGTERM', () => server.close(() => process.exit(0)))
