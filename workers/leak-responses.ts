/** Has leaks answered: starts their workflows, and contains what can't wait where Temporal is away. */
import { type LeakId, leakWorkflowId } from '@keyturn/contract'
import type { Client } from '@temporalio/client'
import type { Logger } from 'pino'
import { containAndPublish, type LeakActivityDeps } from '../activities/leaks.ts'
import { unansweredLeaks } from '../registry/leaks.ts'
import type { respondToLeak } from '../workflows/index.ts'

/** Temporal answers within milliseconds; a leaked key waits for it no longer than this. */
const START_DEADLINE_MS = 2_000
const AT_ONCE = 10
const SWEEP_MS = 5_000
const SWEPT_AT_ONCE = 100

export interface LeakResponses {
  /** Begins in the background, and does not fail: what does not begin is found by a sweep. */
  respond(leakIds: readonly LeakId[]): void
  /** Begins what has been open for some seconds. @returns how many have begun */
  sweep(): Promise<number>
  /** Finishes what is under way. */
  stop(): Promise<void>
}

export interface LeakResponsesOptions extends LeakActivityDeps {
  readonly temporal: Client
  readonly taskQueue: string
  readonly clock: () => Date
  readonly log: Logger
}

export function createLeakResponses(options: LeakResponsesOptions): LeakResponses {
  const { temporal, taskQueue, db, clock, log } = options
  const queue: LeakId[] = []
  const working = new Set<Promise<void>>()

  const start = (leakId: LeakId): Promise<unknown> =>
    temporal.withDeadline(Date.now() + START_DEADLINE_MS, () =>
      temporal.workflow.start<typeof respondToLeak>('respondToLeak', {
        workflowId: leakWorkflowId(leakId),
        taskQueue,
        workflowIdConflictPolicy: 'USE_EXISTING',
        args: [{ leakId }],
      }),
    )

  /** @returns whether a workflow answers it now */
  async function answer(leakId: LeakId): Promise<boolean> {
    try {
      await start(leakId)
      return true
    } catch (error) {
      log.warn({ err: error, leakId }, 'Temporal does not take this leak: containing it without; the rest is done later')
    }
    try {
      await containAndPublish(options, { leakId, at: clock().getTime(), begun: false })
    } catch (error) {
      log.error({ err: error, leakId }, 'a leak could not be contained yet; the next sweep tries again')
    }
    return false
  }

  async function work(): Promise<void> {
    for (let leakId = queue.shift(); leakId !== undefined; leakId = queue.shift()) await answer(leakId)
  }

  return {
    respond(leakIds) {
      queue.push(...leakIds)
      while (working.size < AT_ONCE && queue.length > 0) {
        const worker: Promise<void> = work().finally(() => working.delete(worker))
        working.add(worker)
      }
    },
    async sweep() {
      let begun = 0
      for (const leakId of await unansweredLeaks(db, new Date(clock().getTime() - SWEEP_MS), SWEPT_AT_ONCE)) {
        if (await answer(leakId)) begun += 1
      }
      return begun
    },
    async stop() {
      await Promise.all(working)
    },
  }
}

/** Sweeps every few seconds until it is stopped. Several processes may. */
export function startSweepingLeaks(responses: LeakResponses, log: Logger, everyMs = SWEEP_MS): { stop(): Promise<void> } {
  let running: Promise<unknown> = Promise.resolve()
  const timer = setInterval(() => {
    running = running.then(() =>
      responses.sweep().catch((error: unknown) => log.warn({ err: error }, 'a sweep for leaks failed; the next one tries again')),
    )
  }, everyMs)
  return {
    async stop() {
      clearInterval(timer)
      await running
    },
  }
}
