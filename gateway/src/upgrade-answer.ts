/** Answers to a request to change the protocol: by then Node has left the connection to us, and HTTP is written by hand. */
import { STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'

export function writeHead(socket: Duplex, status: number, fields: Readonly<Record<string, string | readonly string[]>>): void {
  const lines = Object.entries(fields).flatMap(([name, value]) => [value].flat().map((each) => `${name}: ${each}\r\n`))
  socket.write(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.join('')}\r\n`, 'latin1')
}

/** Whoever keeps their side open, or goes on sending, is not listened to: no timeout looks after such a connection. */
export const closeWhenSent = (socket: Duplex): void => void socket.once('finish', () => socket.destroy())

/** No: and the end of the connection. */
export function answerUpgrade(
  socket: Duplex,
  status: number,
  { headers, body }: { readonly headers: Readonly<Record<string, string>>; readonly body: string },
): void {
  writeHead(socket, status, { ...headers, 'content-length': String(Buffer.byteLength(body)), connection: 'close' })
  socket.end(body)
  closeWhenSent(socket)
}
