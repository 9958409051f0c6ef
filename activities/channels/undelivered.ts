/** Why a contact was not reached. It names neither the whole address nor what was answered: both may hold what is not ours to log. */
export class Undelivered extends Error {
  override readonly name = 'Undelivered'
  /** The other side does not want it: to send the same again makes no sense. */
  readonly refused: boolean
  /** When the other side wants to be asked again. */
  readonly retryAfterMs: number | undefined

  constructor(why: string, { refused = false, retryAfterMs }: { refused?: boolean; retryAfterMs?: number | undefined } = {}) {
    super(why)
    this.refused = refused
    this.retryAfterMs = retryAfterMs
  }
}
