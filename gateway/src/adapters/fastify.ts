/**
 * Fastify: `await app.register(keyturn, { gateway })`, then every route registered after it asks for a key. A route says more in
 * its `config`: `{ keyturn: { scopes: ['orders:write'] } }`, or `{ keyturn: false }` when it is open to all. `request.keyturn`
 * is who calls. Addresses are Fastify's `request.ip`: set its `trustProxy` when there is a proxy before it.
 */
import type { FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
import { checkScopes } from '../permissions.ts'
import { type AdapterOptions, type Caller, type Entered, enter, infoOf, refusal, rewriteFields, scopesOf } from './entrance.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who calls; nothing on a route that is open. */
    keyturn: Caller | undefined
  }
  interface FastifyContextConfig {
    keyturn?: false | { readonly scopes: readonly string[] }
  }
}

const plugin: FastifyPluginCallback<AdapterOptions> = (app, options, done) => {
  const byDefault = scopesOf(options)
  app.decorateRequest('keyturn', undefined)
  app.addHook('onRoute', ({ config }) => {
    if (config?.keyturn) checkScopes(config.keyturn.scopes)
  })
  app.addHook('onRequest', (request: FastifyRequest, reply, next) => {
    const { keyturn } = request.routeOptions.config
    if (keyturn === false) {
      rewriteFields(request.raw, {})
      return next()
    }
    const info = infoOf(request.raw, {
      address: request.ip,
      scheme: request.protocol,
      authority: request.host,
      url: request.originalUrl,
    })
    const entered = enter(options, keyturn?.scopes ?? byDefault, info, request.raw, reply.raw)
    if (entered instanceof Promise) entered.then((settled) => settle(settled, request, reply, next), next)
    else settle(entered, request, reply, next)
  })
  done()
}

function settle(entered: Entered, request: FastifyRequest, reply: FastifyReply, next: () => void): void {
  if (entered.accepted) {
    request.keyturn = entered.caller
    next()
  } else {
    const { headers, body } = refusal(entered)
    // As bytes: to text, Fastify would add a charset that JSON does not have.
    reply.code(entered.problem.status).headers(headers).send(Buffer.from(body))
  }
}

/** Not encapsulated, as `fastify-plugin` would do it: its hook is for the routes of whoever registers it. */
export const keyturn: FastifyPluginCallback<AdapterOptions> = Object.assign(plugin, {
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: '@keyturn/gateway',
})
