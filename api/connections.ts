/** HTTP below the routes: requests that are none, and connections at the end. */
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import { PROBLEM_MEDIA_TYPE, problem } from '@keyturn/contract'
import type { ConnectionError } from 'fastify'
import { ApiError } from './problems.ts'
import type { Api } from './routes.ts'

/** What can not be read as HTTP has no request and no reply: the answer is written by hand. */
export function answerUnreadable(error: ConnectionError, socket: Socket): void {
  const document =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? problem('too-large', 'The head of a request is at most 16 KiB.')
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? problem('request-too-slow', 'A request comes within a minute, all of it.')
        : problem('invalid-request', 'This is not an HTTP request that can be read.')
  const body = JSON.stringify(document)
  const head = [
    `HTTP/1.1 ${document.status} ${STATUS_CODES[document.status]}`,
    `Content-Type: ${PROBLEM_MEDIA_TYPE}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  ]
  if (socket.writable) socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}

/** RFC 9112, 3.2. */
export function requireHost(api: Api): void {
  api.addHook('onRequest', async ({ raw }) => {
    if (raw.httpVersion === '1.1' && raw.headers.host === undefined)
      throw new ApiError('invalid-request', 'An HTTP/1.1 request has a Host header.')
  })
}

/** A client that has its answer while the server closes would else keep the connection, and the server, open. */
export function closeConnectionsAtTheEnd(api: Api): void {
  let closing = false
  api.addHook('preClose', async () => {
    closing = true
  })
  api.addHook('onSend', async (_request, reply) => {
    if (closing) reply.header('connection', 'close')
  })
}
