import type { FastifyRequest } from 'fastify'
import { withoutKeys } from './stray-keys.ts'

/** Address and user agent, for the audit log. */
export const whereFrom = (request: FastifyRequest): string =>
  `${request.ip} ${withoutKeys(request.headers['user-agent'] ?? '').slice(0, 200)}`.trim()
