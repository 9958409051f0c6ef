import { Timestamp } from '@keyturn/contract'
import Type from 'typebox'
import { listAudit } from '../registry/audit.ts'
import type { ApiDeps } from './ports.ts'
import { type Api, given, OPERATOR_SECURITY } from './routes.ts'
import { Input, Problems, RotationIdSchema } from './schemas.ts'

const PAGE = 100

const AuditPage = Type.Object({
  entries: Type.Array(
    Type.Object({
      seq: Type.Integer(),
      at: Timestamp,
      actor: Type.String(),
      action: Type.String(),
      subject: Type.String(),
      revision: Type.Optional(Type.Integer()),
      rotationId: Type.Optional(RotationIdSchema),
      detail: Type.Record(Type.String(), Type.Unknown()),
      prevHash: Type.String({ description: 'the hash of the entry before it: sixty-four zeros for the first' }),
      hash: Type.String({ description: 'SHA-256 of this entry, prevHash included' }),
    }),
  ),
  next: Type.Optional(Type.Integer({ description: 'send it as `after` for the next page' })),
})

export function auditRoutes(api: Api, { db }: ApiDeps): void {
  api.get(
    '/v1/audit',
    {
      schema: {
        operationId: 'listAudit',
        summary: 'Read the audit log, oldest first',
        security: OPERATOR_SECURITY,
        querystring: Input({
          subject: Type.Optional(Type.String({ pattern: '^[!-~]{1,100}$', description: 'the id of whatever was changed' })),
          rotation: Type.Optional(RotationIdSchema),
          after: Type.Optional(Type.Integer({ minimum: 0 })),
          limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000 })),
        }),
        response: { 200: AuditPage, ...Problems },
      },
    },
    async (request) => {
      const { subject, rotation, after, limit = PAGE } = request.query
      const filter = { ...given('subject', subject), ...given('rotationId', rotation), ...given('after', after) }
      const entries = await listAudit(db, { ...filter, limit })
      return {
        entries: entries.map((entry) => ({ ...entry, at: entry.at.toISOString() })),
        ...given('next', entries.length < limit ? undefined : entries.at(-1)?.seq),
      }
    },
  )
}
