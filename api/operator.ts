/** Who may give orders. The one place where roles will be decided. */
import { hash, timingSafeEqual } from 'node:crypto'
import type { FastifyRequest, onRequestHookHandler } from 'fastify'
import { ApiError } from './problems.ts'

export interface Operator {
  /** What the audit log calls them. */
  readonly actor: string
}

declare module 'fastify' {
  interface FastifyRequest {
    operator: Operator | undefined
  }
}

const digest = (text: string): Buffer => hash('sha256', text, 'buffer')

/** The credentials of `Authorization: Bearer …`; the scheme's name is not case-sensitive (RFC 9110). */
export function bearer(request: FastifyRequest): string | undefined {
  return /^bearer +(\S+) *$/i.exec(request.headers.authorization ?? '')?.[1]
}

/** Hashes have one length, and comparing them tells nothing of how much of the token was right. */
export const isToken = (shown: string, expected: string): boolean => timingSafeEqual(digest(shown), digest(expected))

/** A hook that lets operators in and nobody else, before a body is read. */
export function requireOperator(operatorToken: string): onRequestHookHandler {
  return async (request) => {
    const shown = bearer(request)
    if (shown === undefined) {
      throw new ApiError('operator-token-required', 'Send "Authorization: Bearer <operator token>".')
    }
    if (!isToken(shown, operatorToken)) throw new ApiError('operator-token-required', 'This is not the operator token.')
    request.operator = { actor: 'operator' }
  }
}

export function operator(request: FastifyRequest): Operator {
  if (request.operator === undefined) throw new Error(`${request.routeOptions.url} is not behind the operator hook`)
  return request.operator
}
