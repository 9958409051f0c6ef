/**
 * How long a leaked key lives: from the POST of a report until the last of three gateways has refused it, beside what Temporal and
 * Kafka take by themselves for a workflow with one activity and one message.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { type LeakId, leakWorkflowId, type Receipt } from '@keyturn/contract'
import { oneActivity, openProduceToConsume } from './baselines.ts'
import { firstActivity } from './history.ts'
import type { BenchHouse } from './house.ts'
import { PREPARED_AT_ONCE, SEEN_ACCEPTED } from './revocation.ts'
import { createCredential, type HeldCredential, inParallel } from './rotations-under-way.ts'
import { type Distribution, distribution, median } from './statistics.ts'
import { Caller, now } from './traffic.ts'

/** What a key can do that is compromised at once when it leaks. */
const TRADING = ['trade:write']
const LOOK_AGAIN_MS = 25
const WITHIN_MS = 60_000

/** What happens on the way, in its order. Each is measured from the one before it. */
export const LEAK_STEPS = [
  'recorded, and told the workflow',
  'began to contain',
  'published',
  'applied by the last gateway',
  'refused by the last gateway',
] as const
type Step = (typeof LEAK_STEPS)[number]

export interface LeakFigures {
  /** Milliseconds from the POST until the last gateway refused a request. */
  readonly refusedMs: Distribution
  readonly oneActivityMs: Distribution
  readonly produceToConsumeMs: Distribution
  /** Median over the samples of: refused / (one activity + produce to consume), the three of one round. */
  readonly ratio: number
  /** Medians in milliseconds of each step. */
  readonly steps: Readonly<Record<Step, number>>
}

interface Sample {
  readonly refusedMs: number
  readonly steps: Readonly<Record<Step, number>>
  readonly oneActivityMs: number
  readonly produceToConsumeMs: number
}

export async function measureLeaks(house: BenchHouse, { samples = 50 } = {}): Promise<LeakFigures> {
  const credentials = await inParallel(samples, PREPARED_AT_ONCE, () => createCredential(house, { scopes: TRADING }))
  const kafka = await openProduceToConsume(house)
  // The callers call all the while, so that the machine is as busy for the peers as for us.
  const callers = house.gateways.map((gateway) => new Caller(gateway, credentials[0]?.token ?? ''))
  const taken: Sample[] = []
  const peers = async () => ({ oneActivityMs: await oneActivity(house), produceToConsumeMs: await kafka.once() })
  try {
    for (const [i, credential] of credentials.entries()) {
      const refusals = callers.map((caller) => caller.use(credential.token))
      const before = i % 2 === 0 ? await peers() : undefined
      while (callers.some(({ accepted }) => accepted < SEEN_ACCEPTED)) await pause(5)
      const ours = await leak(house, credential, refusals)
      taken.push({ ...ours, ...(before ?? (await peers())) })
    }
  } finally {
    await Promise.all(callers.map((caller) => caller.stop()))
    await kafka.close()
  }
  const of = (pick: (sample: Sample) => number): number[] => taken.map(pick)
  return {
    refusedMs: distribution(of(({ refusedMs }) => refusedMs)),
    oneActivityMs: distribution(of(({ oneActivityMs }) => oneActivityMs)),
    produceToConsumeMs: distribution(of(({ produceToConsumeMs }) => produceToConsumeMs)),
    ratio: median(of(({ refusedMs, oneActivityMs, produceToConsumeMs }) => refusedMs / (oneActivityMs + produceToConsumeMs))),
    steps: Object.fromEntries(LEAK_STEPS.map((step) => [step, median(of(({ steps }) => steps[step]))])) as Record<Step, number>,
  }
}

async function leak(
  house: BenchHouse,
  { token }: HeldCredential,
  refusals: readonly Promise<number>[],
): Promise<Pick<Sample, 'refusedMs' | 'steps'>> {
  const posted = now()
  const answered = house.call<{ leakId: LeakId }>('POST', '/v1/leaks', { token, source: 'bench' })
  const refused = Math.max(...(await Promise.all(refusals)))
  const { leakId } = await answered
  // With the rotation that follows it, so that none of its work falls into the next round.
  const { publishedAt, gateways } = await receiptOfClosed(house, leakId)
  const applied = Math.max(...gateways.map(({ appliedAt }) => Date.parse(appliedAt)))
  const published = Date.parse(publishedAt)
  const { scheduled, started } = await firstActivity(house, leakWorkflowId(leakId), 'containLeak')
  return {
    refusedMs: refused - posted,
    steps: {
      'recorded, and told the workflow': scheduled - posted,
      'began to contain': started - scheduled,
      published: published - started,
      'applied by the last gateway': applied - published,
      'refused by the last gateway': refused - applied,
    },
  }
}

async function receiptOfClosed({ db, gateways }: BenchHouse, leakId: LeakId): Promise<Receipt> {
  for (const giveUp = Date.now() + WITHIN_MS; ; ) {
    const [row] = await db.query<{ status: string; receipt: Receipt | null }>(
      'select status, receipt from leaks where leak_id = $1',
      [leakId],
    )
    if (row?.status === 'closed' && row.receipt !== null) {
      if (row.receipt.gateways.length !== gateways.length) throw new Error('the receipt is not complete')
      return row.receipt
    }
    if (Date.now() > giveUp) throw new Error(`leak ${leakId} is not closed after ${WITHIN_MS} ms`)
    await pause(LOOK_AGAIN_MS)
  }
}
