/**
 * How long a dead key lives: from the POST of `deactivate-now` until the last of three gateways has refused it, beside what
 * Temporal and Kafka take by themselves for a workflow with one activity and one message.
 */
import type { Receipt } from '@keyturn/contract'
import { rotationWorkflowId } from '@keyturn/contract'
import { oneActivity, openProduceToConsume } from './baselines.ts'
import { firstActivity } from './history.ts'
import type { BenchHouse } from './house.ts'
import { createCredential, inParallel, reached, rotate, type UnderWay } from './rotations-under-way.ts'
import { type Distribution, distribution, median } from './statistics.ts'
import { Caller, now } from './traffic.ts'

export const PREPARED_AT_ONCE = 4
/** How often a gateway has answered before it is to refuse: its connection is warm then. */
export const SEEN_ACCEPTED = 5

/** What happens on the way, in its order. Each is measured from the one before it. */
export const STEPS = [
  'told the workflow',
  'began to switch off',
  'registry committed',
  'published',
  'applied by the last gateway',
  'refused by the last gateway',
] as const
export type Step = (typeof STEPS)[number]

export interface RevocationFigures {
  /** Milliseconds from the POST until the last gateway refused a request. */
  readonly refusedMs: Distribution
  /** Milliseconds from the POST until the last gateway said that it had applied it, by the receipt. */
  readonly appliedMs: Distribution
  readonly oneActivityMs: Distribution
  readonly produceToConsumeMs: Distribution
  /** Median over the samples of: refused / (one activity + produce to consume), the three of one round. */
  readonly ratio: number
  /** The same from medians. */
  readonly ratioOfMedians: number
  /** Per gateway: milliseconds from the POST until it refused. */
  readonly gateways: Readonly<Record<string, Distribution>>
  /** Medians in milliseconds of each step. */
  readonly steps: Readonly<Record<Step, number>>
}

interface Sample {
  readonly refusedMs: Readonly<Record<string, number>>
  readonly appliedMs: number
  readonly oneActivityMs: number
  readonly produceToConsumeMs: number
  readonly steps: Readonly<Record<Step, number>>
}

export async function measureRevocation(house: BenchHouse, { samples = 100 } = {}): Promise<RevocationFigures> {
  const terms = { overlap: '1h', quietPeriod: '1h' }
  const prepared = await inParallel(samples, PREPARED_AT_ONCE, async () => {
    const rotation = await rotate(house, await createCredential(house), terms)
    await reached(house, rotation, 'monitoring')
    return rotation
  })
  const kafka = await openProduceToConsume(house)
  // The callers call all the while, so that the machine is as busy for the peers as for us.
  const callers = house.gateways.map((gateway) => new Caller(gateway, prepared[0]?.token ?? ''))
  const taken: Sample[] = []
  try {
    for (const [i, rotation] of prepared.entries()) {
      const refusals = callers.map((caller) => caller.use(rotation.token))
      const peers = { oneActivityMs: () => oneActivity(house), produceToConsumeMs: () => kafka.once() }
      const before = i % 2 === 0 ? await inTurn(peers) : undefined
      while (callers.some(({ accepted }) => accepted < SEEN_ACCEPTED)) await new Promise((resolve) => setTimeout(resolve, 5))
      const ours = await revoke(house, rotation, callers, refusals)
      taken.push({ ...ours, ...(before ?? (await inTurn(peers))) })
    }
  } finally {
    await Promise.all(callers.map((caller) => caller.stop()))
    await kafka.close()
  }
  return figures(house, taken)
}

async function inTurn<Name extends string>(jobs: Readonly<Record<Name, () => Promise<number>>>): Promise<Record<Name, number>> {
  const results: Partial<Record<Name, number>> = {}
  for (const name of Object.keys(jobs) as Name[]) results[name] = await jobs[name]()
  return results as Record<Name, number>
}

async function revoke(
  house: BenchHouse,
  rotation: UnderWay,
  callers: readonly Caller[],
  refusals: readonly Promise<number>[],
): Promise<Omit<Sample, 'oneActivityMs' | 'produceToConsumeMs'>> {
  const posted = now()
  const answered = house.call('POST', `/v1/rotations/${rotation.rotationId}/deactivate-now`, { reason: 'bench' })
  const refusedAt = await Promise.all(refusals)
  await answered
  const { receipts } = await reached(house, rotation, 'completed')
  const receipt = receipts.find(({ event }) => event === 'keyturn.key.deactivated')
  if (receipt === undefined || receipt.gateways.length !== callers.length) throw new Error('the receipt is not complete')
  const appliedAt = Math.max(...receipt.gateways.map((gateway) => Date.parse(gateway.appliedAt)))
  const marks = { ...(await marksOf(house, rotation, receipt)), applied: appliedAt, refused: Math.max(...refusedAt) }
  const { told, began, committed, published, applied, refused } = marks
  return {
    refusedMs: Object.fromEntries(callers.map(({ gatewayId }, i) => [gatewayId, (refusedAt[i] ?? Number.NaN) - posted])),
    appliedMs: appliedAt - posted,
    steps: {
      'told the workflow': told - posted,
      'began to switch off': began - told,
      'registry committed': committed - began,
      published: published - committed,
      'applied by the last gateway': applied - published,
      'refused by the last gateway': refused - applied,
    },
  }
}

/** When the steps on the control plane's side were done, in milliseconds of the epoch: from Temporal's history, the audit log and the receipt. */
async function marksOf(
  house: BenchHouse,
  { credentialId, rotationId }: UnderWay,
  receipt: Receipt,
): Promise<{ told: number; began: number; committed: number; published: number }> {
  const { scheduled, started } = await firstActivity(house, rotationWorkflowId(credentialId), 'deactivateKey')
  const [committed] = await house.db.query<{ recorded_at: Date }>(
    `select recorded_at from audit where rotation_id = $1 and action = 'key.deactivated'`,
    [rotationId],
  )
  if (committed === undefined) throw new Error(`the audit log does not show how ${rotationId} switched its old key off`)
  return {
    told: scheduled,
    began: started,
    committed: committed.recorded_at.getTime(),
    published: Date.parse(receipt.publishedAt),
  }
}

function figures(house: BenchHouse, taken: readonly Sample[]): RevocationFigures {
  const last = taken.map(({ refusedMs }) => Math.max(...Object.values(refusedMs)))
  const peers = taken.map(({ oneActivityMs, produceToConsumeMs }) => oneActivityMs + produceToConsumeMs)
  const of = (pick: (sample: Sample) => number): number[] => taken.map(pick)
  return {
    refusedMs: distribution(last),
    appliedMs: distribution(of(({ appliedMs }) => appliedMs)),
    oneActivityMs: distribution(of(({ oneActivityMs }) => oneActivityMs)),
    produceToConsumeMs: distribution(of(({ produceToConsumeMs }) => produceToConsumeMs)),
    ratio: median(last.map((ms, i) => ms / (peers[i] ?? ms))),
    ratioOfMedians:
      median(last) /
      (median(of(({ oneActivityMs }) => oneActivityMs)) + median(of(({ produceToConsumeMs }) => produceToConsumeMs))),
    gateways: Object.fromEntries(
      house.gateways.map(({ id }) => [id, distribution(of(({ refusedMs }) => refusedMs[id] ?? Number.NaN))]),
    ),
    steps: Object.fromEntries(STEPS.map((step) => [step, median(of(({ steps }) => steps[step]))])) as Record<Step, number>,
  }
}
