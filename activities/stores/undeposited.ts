/** Why a key could not be written into its client's store. It holds nothing of what a server answered: that may be the key itself. */
import { StoreConflict, StoreError, type StoreErrorCode } from '@keyturn/client'
import { Undelivered } from '../channels/undelivered.ts'

export class Undeposited extends Error {
  override readonly name = 'Undeposited'
  /** It will be the same next time, unless somebody changes something. */
  readonly refused: boolean

  constructor(why: string, { refused }: { readonly refused: boolean }) {
    super(why)
    this.refused = refused
  }
}

/** In our words: those of a store quote its server. */
const WORDS: { readonly [code in StoreErrorCode]: readonly [why: string, refused: boolean] } = {
  'not-allowed': ['the role may not read and write there', true],
  unreadable: ['what is there is neither a key nor what Keyturn writes', true],
  'newer-format': ['what is there was written by a newer version of Keyturn', true],
  'wrong-credential': ['it holds the key of another credential', true],
  'no-space': ['it has no room for it', true],
  failed: ['there is no such place, or it takes no writing', true],
  unreachable: ['it does not answer', false],
}

/** @param place what it was about: a place that a person knows */
export function undeposited(error: unknown, place: string): Undeposited {
  if (error instanceof Undeposited) return new Undeposited(`${place}: ${error.message}`, error)
  const answer = causeOf(error, Undelivered)
  if (answer !== undefined) return new Undeposited(`${place}: ${answer.message}`, { refused: answer.refused })
  if (error instanceof StoreConflict) return new Undeposited(`${place}: others write there all the time`, { refused: false })
  if (!(error instanceof StoreError)) return new Undeposited(`${place}: ${nameOf(error)}`, { refused: false })
  const [why, refused] = WORDS[error.code]
  return new Undeposited(`${place}: ${why}`, { refused })
}

function causeOf<T extends Error>(error: unknown, kind: new (...args: never[]) => T): T | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) if (cause instanceof kind) return cause
  return undefined
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : 'error')
