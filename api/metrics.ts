import { collectDefaultMetrics, Histogram, Registry } from 'prom-client'
import Type from 'typebox'
import type { Api } from './routes.ts'

/** /metrics, and the duration of every request by route. Labels hold route patterns, never paths: a path may hold a claim. */
export function metricsRoutes(api: Api): void {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry, prefix: 'keyturn_api_' })
  const durations = new Histogram({
    name: 'keyturn_api_request_duration_seconds',
    help: 'How long requests took, by route and status',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers: [registry],
  })
  api.addHook('onResponse', async (request, reply) => {
    const { method } = request
    durations.observe(
      { method, route: request.routeOptions.url ?? 'none', status: String(reply.statusCode) },
      reply.elapsedTime / 1000,
    )
  })
  api.get(
    '/metrics',
    {
      schema: {
        operationId: 'metrics',
        summary: 'What Prometheus scrapes',
        security: [],
        response: { 200: { description: 'the metrics', content: { 'text/plain': { schema: Type.String() } } } },
      },
    },
    async (_request, reply) => reply.type(registry.contentType).send(await registry.metrics()),
  )
}
