/** The decision as those wait for it who answer requests. */
import type { Accepted, Refused } from './authenticate.ts'
import type { Gateway } from './gateway.ts'
import type { RequestInfo } from './request-info.ts'
import { pause } from './wait.ts'

/** A refusal that is to be held back is held back here. */
export async function decide(
  gateway: Pick<Gateway, 'authenticate'>,
  info: RequestInfo,
  scopes: readonly string[] = [],
): Promise<Accepted | Refused> {
  const answer = await gateway.authenticate(info, scopes)
  if (!answer.accepted && answer.holdMs !== undefined) await pause(answer.holdMs)
  return answer
}
