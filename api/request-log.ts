import type { Api } from './routes.ts'

/** Ids are shorter than this; claims, tokens and whatever else somebody puts into a path by mistake are longer. */
const LONGEST_PLAIN_SEGMENT = 30

/** The path without its query, and without what may be a secret in it. */
export function loggedPath(url: string): string {
  const [path = ''] = url.split(/[?#]/, 1)
  return path
    .replace(/(claims?\/+)[^/]+/gi, '$1[redacted]')
    .split('/')
    .map((segment) => (segment.length > LONGEST_PLAIN_SEGMENT ? '[redacted]' : segment))
    .join('/')
}

/** One line a request, when it is answered: no headers, no bodies, no query. */
export function logRequests(api: Api): void {
  api.addHook('onResponse', async (request, reply) => {
    const { routeOptions, method, ip } = request
    const path = routeOptions.url?.includes(':claim') === true ? routeOptions.url : loggedPath(request.url)
    request.log.info({ method, path, status: reply.statusCode, ms: Math.round(reply.elapsedTime), ip }, 'request')
  })
}
