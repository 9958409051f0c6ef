/**
 * Frameworks hand a request to upgrade to their router, like any other (`@fastify/websocket`, Hono on Node): it is let in there, and nothing tells
 * afterwards whether it has become a WebSocket.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Follow } from '../follow.ts'
import { isWebSocket } from '../upgrade-offer.ts'

/**
 * Closes the connection of a request to upgrade when its key ends.
 * @param response none, or one that ends with its connection, where it is upgraded. Of a plain answer the end is the end of it: others may use the connection next
 */
export function followUpgrade(
  follow: (ended: () => void) => ReturnType<Follow>,
  request: IncomingMessage,
  response: ServerResponse | undefined,
): void {
  const { socket } = request
  if (!isWebSocket(request) || socket.destroyed) return
  const stop = follow(() => socket.destroy())
  socket.once('close', stop)
  response?.once('close', () => {
    socket.off('close', stop)
    stop()
  })
}
