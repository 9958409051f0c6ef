/** Reading leak incidents, and the report of one. */
import { LEAK_MATCHES, LEAK_STATUSES } from '@keyturn/contract'
import type { FastifyReply } from 'fastify'
import Type from 'typebox'
import { incidentReport } from '../registry/leak-report.ts'
import { getLeak, type Leak, listLeaks, sightingsOf } from '../registry/leaks.ts'
import { incidentBody, incidentMarkdown } from './leak-report-text.ts'
import type { ApiDeps } from './ports.ts'
import { ApiError } from './problems.ts'
import { type Api, given, isoOf, OPERATOR_SECURITY } from './routes.ts'
import { CredentialIdSchema, IncidentBody, Input, LeakBody, LeakIdSchema, LeakSummary, Problems } from './schemas.ts'

const PAGE = 50
const SIGHTINGS_SHOWN = 200
const MARKDOWN = 'text/markdown; charset=utf-8'
const MARKDOWN_ANSWER = { description: 'the report', content: { 'text/markdown': { schema: Type.String() } } }

export function leakRoutes(api: Api, { db }: ApiDeps): void {
  api.get(
    '/v1/leaks',
    {
      schema: {
        operationId: 'listLeaks',
        summary: 'List leaks, latest first',
        security: OPERATOR_SECURITY,
        querystring: Input({
          status: Type.Optional(Type.Enum([...LEAK_STATUSES])),
          matched: Type.Optional(Type.Enum([...LEAK_MATCHES])),
          credential: Type.Optional(CredentialIdSchema),
          before: Type.Optional(LeakIdSchema),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 200 })),
        }),
        response: {
          200: Type.Object({
            leaks: Type.Array(LeakSummary),
            next: Type.Optional(Type.String({ description: 'send it as `before` for the next page' })),
          }),
          ...Problems,
        },
      },
    },
    async (request) => {
      const { status, matched, credential, before, limit = PAGE } = request.query
      const filter = { ...given('status', status), ...given('matched', matched), ...given('credentialId', credential) }
      const leaks = await listLeaks(db, { ...filter, ...given('before', before), limit })
      return { leaks: leaks.map(summaryOf), ...given('next', leaks.length < limit ? undefined : leaks.at(-1)?.leakId) }
    },
  )

  api.get(
    '/v1/leaks/:id',
    {
      schema: {
        operationId: 'getLeak',
        summary: 'Read a leak and who has reported it',
        security: OPERATOR_SECURITY,
        params: Input({ id: LeakIdSchema }),
        response: { 200: LeakBody, ...Problems },
      },
    },
    async (request) => {
      const leak = await getLeak(db, request.params.id)
      if (leak === undefined) throw unknown(request.params.id)
      const sightings = await sightingsOf(db, leak.leakId, SIGHTINGS_SHOWN)
      return {
        ...summaryOf(leak),
        sources: sightings.map((seen) => ({
          source: seen.source,
          url: seen.url,
          reporter: seen.reporter,
          firstAt: seen.firstAt.toISOString(),
          lastAt: seen.lastAt.toISOString(),
          times: seen.times,
          ...given('foundAt', isoOf(seen.foundAt)),
        })),
      }
    },
  )

  const report = async (leakId: string) => {
    const found = await incidentReport(db, leakId)
    if (found === undefined) throw unknown(leakId)
    return found
  }
  const markdown = (reply: FastifyReply, text: string) => reply.type(MARKDOWN).serializer(String).send(text)
  const schema = {
    summary: 'Read the incident report: timeline, who was told, which gateways refused, and who used the key',
    security: OPERATOR_SECURITY,
    params: Input({ id: LeakIdSchema }),
  }
  api.get(
    '/v1/leaks/:id/report',
    {
      schema: {
        ...schema,
        operationId: 'getLeakReport',
        description: 'JSON; or Markdown for whoever accepts text/markdown, or asks for report.md.',
        response: {
          200: {
            description: 'the report',
            content: { 'application/json': { schema: IncidentBody }, 'text/markdown': { schema: Type.String() } },
          },
          ...Problems,
        },
      },
    },
    async (request, reply) => {
      const found = await report(request.params.id)
      reply.header('vary', 'accept')
      if (prefersMarkdown(request.headers.accept ?? '')) return markdown(reply, incidentMarkdown(found))
      return incidentBody(found)
    },
  )
  api.get(
    '/v1/leaks/:id/report.md',
    { schema: { ...schema, operationId: 'getLeakReportAsMarkdown', response: { 200: MARKDOWN_ANSWER, ...Problems } } },
    async (request, reply) => markdown(reply, incidentMarkdown(await report(request.params.id))),
  )
}

/** Whichever of the two is named first. */
function prefersMarkdown(accept: string): boolean {
  const at = accept.search(/text\/markdown/i)
  const json = accept.search(/application\/json/i)
  return at >= 0 && (json < 0 || at < json)
}

const unknown = (leakId: string): ApiError => new ApiError('unknown-leak', `There is no leak ${leakId}.`)

export const summaryOf = (leak: Leak) => ({
  leakId: leak.leakId,
  matched: leak.matched,
  status: leak.status,
  sightings: leak.sightings,
  reportedAt: leak.reportedAt.toISOString(),
  ...given(leak.hash.kind === 'sha256' ? 'tokenSha256' : 'hmslHash', leak.hash.hex),
  ...given('keyId', leak.keyId),
  ...given('credentialId', leak.credentialId),
  ...given('response', leak.response),
  ...given('rotationId', leak.rotationId),
  ...given('containedAt', isoOf(leak.containedAt)),
  ...given('closedAt', isoOf(leak.closedAt)),
})
