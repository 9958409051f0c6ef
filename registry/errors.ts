import type { ProblemCode } from '@keyturn/contract'

/** What the registry refuses, with a code of the contract's closed list. The message is for a person and holds no secret. */
export class RegistryError extends Error {
  readonly code: ProblemCode

  constructor(code: ProblemCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'RegistryError'
    this.code = code
  }
}

/** The SQLSTATE of an error of PostgreSQL. */
export const sqlState = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined

/** The name of the constraint that an error of PostgreSQL is about. */
export const violated = (error: unknown): string | undefined =>
  error instanceof Error && 'constraint' in error && typeof error.constraint === 'string' ? error.constraint : undefined

/** SQLSTATEs that our own triggers raise; the migrations name them. */
export const SQL_STATES = {
  illegalTransition: 'KT003',
  uniqueViolation: '23505',
  serialization: '40001',
  deadlock: '40P01',
} as const
