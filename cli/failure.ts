/** Errors that the command knows how to tell. */
import type { ProblemDocument } from '@keyturn/contract'

export const EXIT = { done: 0, failed: 1, usage: 2 } as const

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
    super(problem.title, problem.detail)
    this.problem = problem
  }
}

/** The command was called in a way that can not work. */
export class UsageFailure extends Failure {
  override readonly name = 'UsageFailure'
}
