/** Tells people what no rotation takes care of: keys that expire before they are replaced, and credentials that nobody uses. */
import { formatDuration } from '@keyturn/contract'
import type { Logger } from 'pino'
import type { Database } from '../registry/database.ts'
import { claimChore, proposeRetirements, warnOfExpiry } from '../registry/neglect.ts'
import { listPolicies } from '../registry/policies.ts'
import type { Alerts } from './alerts.ts'

const MINUTE = 60_000
const DAY = 86_400_000
const LOOK_MS = MINUTE
const EXPIRY_EVERY_MS = 10 * MINUTE
const UNUSED_EVERY_MS = 6 * 60 * MINUTE
const BATCH = 100

/** A key without a policy is warned of so long before it expires. */
const NOTICE_MS = 14 * DAY
/** A credential that nobody has used for so long is proposed for retirement. */
export const UNUSED_MS = 90 * DAY

/** Warns of keys that expire and that no rotation replaces in time. @returns of how many */
export async function warnOfExpiringKeys(db: Database, alerts: Alerts, at: Date): Promise<number> {
  // Under a policy a rotation has begun an overlap before the end of the period, and no key expires before that.
  const byPolicy = new Map((await listPolicies(db)).map(({ name, terms }) => [name, terms.rotation.overlapMs]))
  let warned = 0
  for (;;) {
    const some = await warnOfExpiry(
      db,
      { at, byPolicy, otherwiseMs: NOTICE_MS, limit: BATCH },
      ({ credentialId, keyId, expiresAt }) => {
        const left = expiresAt.getTime() - at.getTime()
        const when = left > 0 ? `expires in ${formatDuration(Math.ceil(left / MINUTE) * MINUTE)}` : 'has expired'
        const detail = `key ${keyId} ${when} and no rotation replaces it: \`keyturn rotate ${credentialId}\``
        return alerts.raise({ kind: 'key-expires', credentialId, detail })
      },
    )
    warned += some
    if (some < BATCH) return warned
  }
}

/** Proposes credentials for retirement that nobody uses. @returns how many are new */
export const proposeUnusedCredentials = (db: Database, alerts: Alerts, at: Date): Promise<number> =>
  proposeRetirements(db, { at, unusedMs: UNUSED_MS }, ({ credentialId, lastUsedAt }) => {
    const use = lastUsedAt === null ? 'has never been used' : `was last used at ${lastUsedAt.toISOString()}`
    const detail = `the credential ${use}: retire it, or it will go on being rotated; \`keyturn credential unused\` lists all such`
    return alerts.raise({ kind: 'credential-unused', credentialId, detail })
  })

/** Looks now and then, until it is stopped. Of several workers one does each look. */
export function startNeglectWatch(db: Database, alerts: Alerts, log: Logger): { stop(): Promise<void> } {
  let running: Promise<void> = Promise.resolve()

  async function look(): Promise<void> {
    const at = new Date()
    try {
      if (await claimChore(db, 'warn-of-expiry', at, EXPIRY_EVERY_MS)) {
        const warned = await warnOfExpiringKeys(db, alerts, at)
        if (warned > 0) log.warn({ warned }, 'keys expire that no rotation replaces')
      }
      if (await claimChore(db, 'propose-retirements', at, UNUSED_EVERY_MS)) {
        const proposed = await proposeUnusedCredentials(db, alerts, at)
        if (proposed > 0) log.info({ proposed }, 'credentials that nobody uses are proposed for retirement')
      }
    } catch (error) {
      log.warn({ err: error }, 'a look at what is neglected failed; a later one tries again')
    }
  }

  const timer = setInterval(() => {
    running = running.then(look)
  }, LOOK_MS)
  return {
    async stop() {
      clearInterval(timer)
      await running
    },
  }
}
