/** The decision as those wait for it who answer requests. */
import type { Authentication } from './authenticate.ts'
import type { Gateway } from './gateway.ts'
import type { RequestInfo } from './request-info.ts'
import { pause } from './wait.ts'

/** A refusal that is to be held back is held back here; what is decided at once is answered at once. */
export function decide(
  gateway: Pick<Gateway, 'authenticate'>,
  info: RequestInfo,
  scopes: readonly string[] = [],
): Authentication | Promise<Authentication> {
  const answer = gateway.authenticate(info, scopes)
  return answer instanceof Promise ? answer.then(held) : held(answer)
}

function held(answer: Authentication): Authentication | Promise<Authentication> {
  if (answer.accepted || answer.holdMs === undefined) return answer
  return pause(answer.holdMs).then(() => answer)
}
