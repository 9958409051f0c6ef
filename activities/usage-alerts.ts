/** The alerts that follow from usage: who still uses an old key late, which silent gateway holds a rotation back, and who replays. */
import type { Alert } from '@keyturn/contract'
import type { Database } from '../registry/database.ts'
import { tellReplays, type UntoldReplays, untoldReplays } from '../registry/replays.ts'
import { readEvidence } from '../registry/usage.ts'
import { alertOnce, type HeldBack, heldBackBySilence, type Straggling, stragglersToAlert } from '../registry/usage-alerts.ts'

const MOST_DETAIL = 500
const NAMED = 3
/** Of a user agent: what is to be done must not be cut off. */
const SHORT = 40

export type RaiseAlert = (alert: Omit<Alert, 'at'>) => Promise<void>

export async function raiseUsageAlerts(db: Database, now: Date, raise: RaiseAlert): Promise<void> {
  for (const due of await stragglersToAlert(db)) {
    await alertOnce(db, due, async () => raise(about(due, 'straggler', await stragglerText(db, due))))
  }
  for (const due of await heldBackBySilence(db, now)) {
    await alertOnce(db, due, () => raise(about(due, 'gateway-silent', silenceText(due))))
  }
  for (const keyId of await untoldReplays(db, now)) {
    await tellReplays(db, { keyId, now }, (replays) =>
      raise({ kind: 'replay', credentialId: replays.credentialId, detail: replayText(replays).slice(0, MOST_DETAIL) }),
    )
  }
}

const about = ({ rotationId, credentialId }: Straggling | HeldBack, kind: Alert['kind'], text: string): Omit<Alert, 'at'> => ({
  kind,
  rotationId,
  credentialId,
  detail: text.slice(0, MOST_DETAIL),
})

function replayText({ keyId, replayed, stale, outOfOrder, since, lastAt, sources }: UntoldReplays): string {
  const counts = { 'sent before': replayed, 'outside of their window': stale, 'out of order': outOfOrder }
  const what = Object.entries(counts).flatMap(([name, count]) => (count === 0 ? [] : [`${count} ${name}`]))
  const named = sources
    .slice(0, NAMED)
    .map(({ address, userAgent, count }) => `${address} (${userAgent.slice(0, SHORT)}), ${count} times`)
  const from = named.length === 0 ? '' : `, most from ${named.join('; ')}`
  return `key ${keyId}: rightly signed requests were refused, ${what.join(', ')}, from ${since.toISOString()} to ${lastAt.toISOString()}${from}: if it is not the client that repeats itself or has a wrong clock, somebody listens to it`
}

async function stragglerText(db: Database, { rotationId, percent, lastUsedAt, deadline }: Straggling): Promise<string> {
  const { stragglers } = await readEvidence(db, rotationId)
  const named = stragglers.slice(0, NAMED).map(({ address, userAgent }) => `${address} (${userAgent})`)
  const by = named.length === 0 ? '' : `, by ${named.join(', ')}`
  const more = stragglers.length > NAMED ? ` and ${stragglers.length - NAMED} more` : ''
  return `after ${percent} % of the overlap window the old key is still used, last at ${lastUsedAt.toISOString()}${by}${more}: have them take the new key before ${deadline.toISOString()}`
}

const silenceText = ({ gatewayIds }: HeldBack): string =>
  `the old key could go, but its latest use is not known: ${gatewayIds.join(', ')} silent; bring it back, or declare it gone`
