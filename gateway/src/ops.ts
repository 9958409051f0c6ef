/** `/healthz`, `/readyz`, `/metrics`. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Gateway } from './gateway.ts'

const PATHS = ['/healthz', '/readyz', '/metrics']

const path = (request: IncomingMessage): string => (request.url ?? '').split('?', 1)[0] ?? ''

export const isOpsRequest = (request: IncomingMessage): boolean => PATHS.includes(path(request))

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' })
  response.end(JSON.stringify(body))
}

/**
 * `/healthz`: 200 while the process lives. `/readyz`: 200 once all keys are loaded, also when they have become stale since
 * (the body says so: taking every stale gateway away would take the API down with Kafka); 503 before that and while stopping.
 * @param draining it takes no more requests, or soon will not
 */
export async function answerOps(
  gateway: Pick<Gateway, 'status' | 'metrics'>,
  draining: boolean,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  request.resume()
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.writeHead(405, { allow: 'GET, HEAD' }).end()
    return
  }
  switch (path(request)) {
    case '/healthz':
      return sendJson(response, 200, { status: 'ok' })
    case '/readyz': {
      const { freshness, freshAsOf, keys, lag, ...status } = gateway.status()
      const ready = status.ready && !draining
      return sendJson(response, ready ? 200 : 503, { ready, freshness, freshAsOf, keys, lag })
    }
    case '/metrics': {
      const text = await gateway.metrics.metrics()
      response.writeHead(200, { 'content-type': gateway.metrics.contentType, 'cache-control': 'no-store' }).end(text)
      return
    }
    default:
      response.writeHead(404).end()
  }
}
