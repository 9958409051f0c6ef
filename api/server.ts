/** The control plane's HTTP API. `createApi` composes it from what it is given and starts nothing. */
import swagger from '@fastify/swagger'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { type FastifyBaseLogger, fastify, LogController } from 'fastify'
import Type from 'typebox'
import { auditRoutes } from './audit.ts'
import { claimOrderRoutes } from './claim-order.ts'
import { claimPageRoutes } from './claim-page.ts'
import { claimRoutes } from './claims.ts'
import { clientRoutes } from './clients.ts'
import { answerUnreadable, closeConnectionsAtTheEnd, requireHost } from './connections.ts'
import { credentialListRoutes } from './credential-list.ts'
import { credentialRoutes } from './credentials.ts'
import { doneRoutes } from './done.ts'
import { fallbackRoutes } from './fallback.ts'
import { feedRoutes } from './feed.ts'
import { gatewayRoutes } from './gateways.ts'
import { healthRoutes } from './health.ts'
import { identityRoutes } from './identity.ts'
import { importRoutes } from './imports.ts'
import { leakReportRoutes } from './leak-reports.ts'
import { leakRoutes } from './leaks.ts'
import { metricsRoutes } from './metrics.ts'
import { requireOperator } from './operator.ts'
import { orderRoutes } from './orders.ts'
import { ownKeyRoutes } from './own-key.ts'
import { permissionRoutes } from './permissions.ts'
import { policyRoutes } from './policies.ts'
import type { ApiDeps } from './ports.ts'
import { answerErrorsWithProblems, sendProblem, toProblem } from './problems.ts'
import { logRequests } from './request-log.ts'
import { resealRoutes } from './reseal.ts'
import { rolloverRoutes } from './rollovers.ts'
import { rotationEventRoutes } from './rotation-events.ts'
import { rotationRoutes } from './rotations.ts'
import type { Api } from './routes.ts'
import { sessionRoutes } from './sessions.ts'
import { signingKeyRoutes } from './signing-keys.ts'
import { refuseStrayKeys } from './stray-keys.ts'
import { answerUnknownRoutes } from './unknown-routes.ts'
import { unusedRoutes } from './unused.ts'
import { validatorCompiler } from './validation.ts'

export type { ApiDeps } from './ports.ts'

const BODY_LIMIT = 64 * 1024

/** The API, ready to `listen` or `inject`. */
export async function createApi(deps: ApiDeps): Promise<Api> {
  const api: Api = fastify({
    loggerInstance: deps.log as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: BODY_LIMIT,
    // The nearest is the first.
    trustProxy: (_address, hop) => hop < deps.config.trustedProxies,
    requestTimeout: 60_000,
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    routerOptions: { maxParamLength: 200 },
    frameworkErrors: (error, _request, reply) => void sendProblem(reply, toProblem(error)),
    clientErrorHandler: answerUnreadable,
    // Ours answers with a problem document, Node's with an empty body.
    http: { requireHostHeader: false },
  }).withTypeProvider<TypeBoxTypeProvider>()

  api.setValidatorCompiler(validatorCompiler)
  answerErrorsWithProblems(api)
  answerUnknownRoutes(api)
  requireHost(api)
  closeConnectionsAtTheEnd(api)
  readJsonOnly(api)
  logRequests(api)
  await api.register(swagger, { openapi: OPENAPI })
  metricsRoutes(api)
  descriptionRoute(api)

  api.register((open, _options, done) => {
    healthRoutes(open, deps)
    claimRoutes(open, deps)
    claimPageRoutes(open, deps)
    doneRoutes(open, deps)
    feedRoutes(open, deps)
    fallbackRoutes(open, deps)
    sessionRoutes(open, deps)
    identityRoutes(open, deps)
    ownKeyRoutes(open, deps)
    done()
  })
  api.register((reporting, _options, done) => {
    leakReportRoutes(reporting, deps)
    done()
  })
  api.register((operated, _options, done) => {
    operated.decorateRequest('operator', undefined)
    operated.addHook('onRequest', requireOperator(deps.config.operatorToken))
    refuseStrayKeys(operated)
    clientRoutes(operated, deps)
    credentialRoutes(operated, deps)
    credentialListRoutes(operated, deps)
    permissionRoutes(operated, deps)
    rotationRoutes(operated, deps)
    orderRoutes(operated, deps)
    claimOrderRoutes(operated, deps)
    rotationEventRoutes(operated, deps)
    rolloverRoutes(operated, deps)
    gatewayRoutes(operated, deps)
    signingKeyRoutes(operated, deps)
    policyRoutes(operated, deps)
    unusedRoutes(operated, deps)
    leakRoutes(operated, deps)
    auditRoutes(operated, deps)
    resealRoutes(operated, deps)
    operated.register(importRoutes(deps))
    done()
  })
  await api.ready()
  return api
}

/** An empty body is no body; anything that is not JSON is refused before it is read. */
function readJsonOnly(api: Api): void {
  const parse = api.getDefaultJsonParser('error', 'error')
  api.removeAllContentTypeParsers()
  api.decorateRequest('signedBody', undefined)
  api.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body.length > 0 && request.headers['signature-input'] !== undefined) request.signedBody = body as string
    if (body.length === 0) done(null, undefined)
    else void parse(request, body as string, done)
  })
}

function descriptionRoute(api: Api): void {
  api.get(
    '/openapi.json',
    {
      schema: {
        operationId: 'openapi',
        summary: 'This description',
        security: [],
        response: { 200: Type.Unknown({ description: 'an OpenAPI 3.1 document' }) },
      },
    },
    async () => api.swagger(),
  )
}

const OPENAPI = {
  openapi: '3.1.0' as const,
  info: {
    title: 'Keyturn control plane',
    version: '0.1.0',
    description: 'Rotates the API keys of clients without losing a request. Errors are problem documents (RFC 9457).',
    license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
  },
  components: {
    securitySchemes: {
      operator: { type: 'http' as const, scheme: 'bearer', description: 'the operator token' },
      reporter: { type: 'http' as const, scheme: 'bearer', description: 'a token that can report leaks and do nothing else' },
      gateway: { type: 'http' as const, scheme: 'bearer', description: "the gateways' token" },
      key: { type: 'http' as const, scheme: 'bearer', description: 'a key that is accepted' },
      clientKey: { type: 'http' as const, scheme: 'bearer', description: 'any key of the client that is accepted' },
      oldKey: { type: 'http' as const, scheme: 'bearer', description: 'the key that is being replaced' },
      signature: {
        type: 'apiKey' as const,
        in: 'header' as const,
        name: 'Signature-Input',
        description: 'with Signature: the request is signed with the key (RFC 9421)',
      },
    },
  },
}
