/** Keeps the Temporal Schedules equal to the policies in the registry, for changes that were made while Temporal was away. */
import type { Client } from '@temporalio/client'
import type { Logger } from 'pino'
import { reconcileSchedules } from '../api/schedules.ts'
import type { Database } from '../registry/database.ts'
import { listPolicies } from '../registry/policies.ts'

const INTERVAL_MS = 60_000

/** Looks once at the start, and then every minute. Several workers may. */
export function startPolicySchedules(db: Database, client: Client, taskQueue: string, log: Logger): { stop(): Promise<void> } {
  let timer: NodeJS.Timeout | undefined
  let stopped = false
  const names = async (): Promise<string[]> => (await listPolicies(db)).map(({ name }) => name)

  async function look(): Promise<void> {
    let again = true
    try {
      again = await reconcileSchedules(client, taskQueue, names)
      if (!again) log.warn('this Temporal server has no schedules: policies are not run by themselves')
    } catch (error) {
      if (!stopped) log.warn({ err: error }, 'the schedules of policies could not be looked at; the next look tries again')
    }
    if (!again || stopped) return
    timer = setTimeout(() => {
      looking = look()
    }, INTERVAL_MS)
  }

  let looking = look()
  return {
    async stop() {
      stopped = true
      clearTimeout(timer)
      await looking
    },
  }
}
