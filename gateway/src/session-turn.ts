/** Session tokens from an address past its limit of bad tokens have their signatures checked in their turn. What else shows a token is decided on at once. */
import { isSessionToken } from '@keyturn/contract'
import { type AnswersOptions, createAnswers } from './answers.ts'
import { type Authenticate, type AuthenticateOptions, type AuthenticateShown, shownToken } from './authenticate.ts'
import type { Sessions } from './sessions.ts'
import type { Turnstile } from './turnstile.ts'

export interface SessionTurnOptions extends AnswersOptions, Pick<AuthenticateOptions, 'onOutcome'> {
  readonly sessions: Pick<Sessions, 'remembers'>
  readonly turnstile: Pick<Turnstile, 'enter'>
}

export function createSessionTurn(shown: AuthenticateShown, options: SessionTurnOptions): Authenticate {
  const { sessions, turnstile, onOutcome } = options
  const { undecided } = createAnswers(options)
  return (request, scopes) => {
    const found = shownToken(request.headers)
    if (typeof found === 'string' || !isSessionToken(found.token) || sessions.remembers(found.token))
      return shown(request, scopes)
    const turn = turnstile.enter(request.address)
    if (turn === undefined) return shown(request, scopes)
    return turn.then((may) => {
      if (may) return shown(request, scopes)
      onOutcome('undecided')
      return undecided
    })
  }
}
