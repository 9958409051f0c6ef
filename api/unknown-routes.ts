/** What is answered where no route is: 404, or 405 with what is allowed where the path has other methods (RFC 9110, 15.5.6). */
import { problem } from '@keyturn/contract'
import { sendProblem } from './problems.ts'
import type { Api } from './routes.ts'

/** To be called before the routes are added. */
export function answerUnknownRoutes(api: Api): void {
  const known = new Map<string, { readonly pattern: RegExp; readonly methods: Set<string> }>()
  api.addHook('onRoute', ({ url, method }) => {
    const pattern = new RegExp(`^${url.replaceAll('.', '[.]').replaceAll(/:[^/]+/g, '[^/]+')}$`)
    const entry = known.get(url) ?? { pattern, methods: new Set() }
    known.set(url, entry)
    for (const one of [method].flat()) entry.methods.add(one)
  })
  api.setNotFoundHandler((request, reply) => {
    const [path = ''] = request.url.split('?', 1)
    const methods = [...known.values()].find(({ pattern }) => pattern.test(path))?.methods
    if (methods === undefined)
      return sendProblem(reply, problem('not-found', `There is nothing at this path; /openapi.json lists what there is.`))
    const allowed = [...methods].join(', ')
    reply.header('allow', allowed)
    return sendProblem(reply, problem('method-not-allowed', `There is no ${request.method} here, but: ${allowed}.`))
  })
}
