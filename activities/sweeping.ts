/**
 * What no workflow looks after: keys whose last change has not been published (a credential made while Kafka was away),
 * claims that have expired with the secret still sealed in them, answers to claims that may not be repeated any more, and rollovers that were opened while Temporal was away.
 */
import type { RolloverId } from '@keyturn/contract'
import type { Logger } from 'pino'
import { destroyExpiredClaims, wipeRepeatableClaims } from '../registry/claims.ts'
import { forgetClientEvents } from '../registry/client-events.ts'
import type { Database } from '../registry/database.ts'
import { forgetNonces } from '../registry/nonces.ts'
import { unpublishedKeyIds } from '../registry/publishing.ts'
import { rolloversUnderWay } from '../registry/rollover-records.ts'
import type { Propagation } from './propagation.ts'

const INTERVAL_MS = 5_000
const BATCH = 200

/**
 * Sweeps until it is stopped. Several workers may: each sweep does no harm twice.
 * @param startRollover starts the workflow of a rollover, unless it runs
 */
export function startSweeping(
  db: Database,
  propagation: Propagation,
  startRollover: (rolloverId: RolloverId) => Promise<void>,
  log: Logger,
  everyMs = INTERVAL_MS,
): { stop(): Promise<void> } {
  let before: ReadonlySet<string> = new Set()
  let running: Promise<void> = Promise.resolve()

  async function sweep(): Promise<void> {
    try {
      const destroyed = await destroyExpiredClaims(db, new Date())
      if (destroyed > 0) log.info({ destroyed }, 'expired claims: their secrets are destroyed')
      await wipeRepeatableClaims(db, new Date())
      await forgetClientEvents(db, new Date())
      await forgetNonces(db, new Date())
      // Before anything that needs Kafka.
      for (const rolloverId of await rolloversUnderWay(db)) await startRollover(rolloverId)
      const unpublished = await unpublishedKeyIds(db, BATCH)
      // A key that was unpublished a sweep ago is nobody's business any more; a fresh one is about to be published by its owner.
      for (const keyId of unpublished.filter((id) => before.has(id))) {
        await propagation.publish(keyId)
        log.info({ keyId }, 'published a key whose change had not been published')
      }
      before = new Set(unpublished)
    } catch (error) {
      log.warn({ err: error }, 'a sweep failed; the next one tries again')
    }
  }

  const timer = setInterval(() => {
    running = running.then(sweep)
  }, everyMs)
  return {
    async stop() {
      clearInterval(timer)
      await running
    },
  }
}
