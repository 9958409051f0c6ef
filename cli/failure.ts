/** Errors that the command knows how to tell. */
import type { ProblemCode, ProblemDocument } from '@keyturn/contract/problem'

export const EXIT = { done: 0, failed: 1, usage: 2 } as const

/** Where the API speaks of headers, and we of variables. */
const WHAT_TO_DO: Partial<Record<ProblemCode, string>> = {
  'operator-token-required': 'The API does not take this token. KEYTURN_TOKEN holds it.',
}
/** Refusals of what was typed. */
const MISTYPED: readonly ProblemCode[] = ['invalid-request', 'invalid-duration']

/** Something that did not work, in plain words: what, and what to do. */
export class Failure extends Error {
  override readonly name: string = 'Failure'
  readonly hint: string | undefined
  constructor(message: string, hint?: string, options?: ErrorOptions) {
    super(message, options)
    this.hint = hint
  }
}

/** An answer of the API that is an error. */
export class ProblemFailure extends Failure {
  override readonly name = 'ProblemFailure'
  readonly problem: ProblemDocument
  constructor(problem: ProblemDocument) {
    super(problem.title, WHAT_TO_DO[problem.code] ?? problem.detail)
    this.problem = problem
  }
}

/** The command was called in a way that can not work. */
export class UsageFailure extends Failure {
  override readonly name = 'UsageFailure'
}

export function exitCodeOf(error: unknown): number {
  const usage = error instanceof UsageFailure || (error instanceof ProblemFailure && MISTYPED.includes(error.problem.code))
  return usage ? EXIT.usage : EXIT.failed
}
