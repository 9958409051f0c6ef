/**
 * Which requests leave HTTP: those for a WebSocket. Any other offer (`Upgrade: h2c` of curl and Java) is passed over, as RFC 9110
 * section 7.8 allows, and its request is the plain one that it also is.
 */
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ProblemDocument, problem } from '@keyturn/contract'
import { announcesBody } from './body.ts'

export const isWebSocket = ({ headers }: Pick<IncomingMessage, 'headers'>): boolean =>
  headers.upgrade?.toLowerCase() === 'websocket'

const NO_HANDSHAKE = problem('invalid-request', 'A WebSocket is opened with GET and without a body')

/** What was decided on is what is done: a handshake is a GET (RFC 6455 section 4.1), whatever the request says that it is. */
export const handshakeFlaw = ({ method, headers }: IncomingMessage): ProblemDocument | undefined =>
  method === 'GET' && !announcesBody(headers) ? undefined : NO_HANDSHAKE

/** Whether the caller has hung up meanwhile: also by half, as with Node's own requests. Nothing would tell of that any more. */
export function hasLeft(socket: Duplex): boolean {
  if (socket.readableEnded) socket.destroy()
  return socket.destroyed
}
