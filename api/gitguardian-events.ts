/** What GitGuardian's custom webhook says of leaks. */
import { parseToken, scannerExpression } from '@keyturn/contract'
import Type from 'typebox'
import { type Sighting, toSighting, withoutTokens } from '../registry/leak-intake.ts'
import { check } from './validation.ts'

/** Events that say that a secret lies open somewhere; the rest is about how people handle it. */
const GITGUARDIAN_ACTIONS = [
  'incident_triggered',
  'incident_reopened',
  'incident_regression',
  'new_occurrence',
  'occurrence_triggered',
]

const GitguardianEvent = Type.Object({
  action: Type.String(),
  timestamp: Type.Optional(Type.String()),
  incident: Type.Optional(
    Type.Object({
      hmsl_hash: Type.Optional(Type.Union([Type.String(), Type.Null()])),
      gitguardian_url: Type.Optional(Type.Union([Type.String(), Type.Null()])),
    }),
  ),
  occurrence: Type.Optional(Type.Object({ url: Type.Optional(Type.Union([Type.String(), Type.Null()])) })),
})

/** The token is named by GitGuardian's own hash; and whatever token of our form stands in the event is taken, too. */
export function gitguardianSightings(body: unknown): Sighting[] {
  const event = check(GitguardianEvent, body)
  if (!GITGUARDIAN_ACTIONS.includes(event.action)) return []
  const url = withoutTokens(event.occurrence?.url ?? event.incident?.gitguardian_url ?? '').slice(0, 2_000)
  const at =
    event.timestamp !== undefined && Number.isFinite(Date.parse(event.timestamp)) ? { foundAt: new Date(event.timestamp) } : {}
  const hmsl = event.incident?.hmsl_hash ?? ''
  const tokens = [...new Set(JSON.stringify(body).match(new RegExp(scannerExpression(), 'g')) ?? [])]
  return [
    ...(/^[0-9a-f]{64}$/.test(hmsl) ? [{ hash: { kind: 'hmsl' as const, hex: hmsl }, source: 'gitguardian', url, ...at }] : []),
    ...tokens
      .filter((token) => parseToken(token).ok)
      .map((token) => ({ ...toSighting({ token, source: 'gitguardian', url }), ...at })),
  ]
}
