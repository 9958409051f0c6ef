/** A client that sends its body byte by byte only holds a connection: a body has a least rate. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { problem } from '@keyturn/contract'
import { announcesBody } from './body.ts'
import { sendProblem } from './incoming.ts'

/** Bytes a second, over each of the times that are looked at. */
const LEAST_RATE = 100

/** @param patienceMs so often the body is looked at; so long what is left of one takes at most whose request is answered already */
export function watchBody(request: IncomingMessage, response: ServerResponse, patienceMs: number): void {
  if (!announcesBody(request.headers)) return
  const { socket } = request
  const least = (LEAST_RATE * patienceMs) / 1_000
  let read = socket.bytesRead
  const timer = setInterval(() => {
    const arrived = socket.bytesRead - read
    read += arrived
    // What waits here waits for the API behind, and not for its client.
    const fast = arrived >= least || request.readableLength > 0
    if (request.complete || (fast && !response.writableFinished)) return
    if (response.headersSent) return void request.destroy()
    // Node forgets a request whose answer is out: whoever reads its body would wait for ever.
    response.once('finish', () => request.destroy())
    sendProblem(response, problem('request-too-slow', `A body comes at ${LEAST_RATE} bytes a second at least.`), CLOSE)
  }, patienceMs)
  timer.unref()
  request.once('close', () => clearInterval(timer))
}

const CLOSE = { connection: 'close' }
