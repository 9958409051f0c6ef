/** An API that says what it was sent; in a process of its own, so that nothing keeps it waiting. Says where it listens. */
import { createHash } from 'node:crypto'
import { writeSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const server = createServer((request, response) => {
  const hash = createHash('sha256')
  request.on('data', (chunk: Buffer) => hash.update(chunk))
  request.on('end', () => response.end(JSON.stringify({ sha256: hash.digest('hex') })))
})
// A connection that it closes just when a gateway takes it again is no fault of a client.
server.keepAliveTimeout = 600_000
server.listen(0, '127.0.0.1', () => {
  writeSync(1, `http://127.0.0.1:${(server.address() as AddressInfo).port}\n`)
})
