/** Why a claim came to nothing. */
export class ClaimError extends Error {
  override readonly name = 'ClaimError'
  /** A problem code of the API. */
  readonly code: string

  constructor(code: string) {
    super(`the key was not handed out: ${code}`)
    this.code = code
  }
}
