/**
 * How fast a run of a policy starts rotations, beside the server's own burst of empty workflows: as many of them, as many at once as a
 * page of a run has, and nobody works on them. The rotations are held for an approval as soon as they are on record, so
 * that it is starting that is measured.
 */
import { randomBytes } from 'node:crypto'
import { type Policy, randomBase62 } from '@keyturn/contract'
import { createClient } from '../registry/clients.ts'
import { createCredential } from '../registry/credentials.ts'
import { applyPolicies, removePolicy } from '../registry/policies.ts'
import { createSealer } from '../registry/sealing.ts'
import type { runPolicy } from '../workflows/index.ts'
import type { BenchHouse } from './house.ts'
import { inParallel } from './rotations-under-way.ts'
import { median } from './statistics.ts'

const DAY_MS = 86_400_000
const AT_ONCE = 100

export interface PolicyFigures {
  readonly credentials: number
  readonly rounds: number
  /** Starts a second, medians over the rounds. */
  readonly runPolicyPerSecond: number
  readonly emptyPerSecond: number
  /** The first as a part of the second: the median over the rounds of the ratio in each. */
  readonly ratio: number
}

/** @param options how many credentials are due in each round */
export async function measurePolicies(house: BenchHouse, { credentials = 200, rounds = 3 } = {}): Promise<PolicyFigures> {
  // The worker may just be starting.
  await house.temporal.workflow.execute<typeof runPolicy>('runPolicy', {
    workflowId: `bench/ready-${randomBase62(8)}`,
    taskQueue: house.taskQueue,
    args: [{ policy: 'none' }],
  })
  const ours: number[] = []
  const peers: number[] = []
  for (let round = 0; round < rounds; round++) {
    const measures = [
      async () => ours.push(await runOf(house, credentials)),
      async () => peers.push(await emptyBurst(house, credentials)),
    ]
    for (const measure of round % 2 === 0 ? measures : measures.reverse()) await measure()
  }
  return {
    credentials,
    rounds,
    runPolicyPerSecond: median(ours),
    emptyPerSecond: median(peers),
    ratio: median(ours.map((rate, i) => rate / (peers[i] ?? Number.NaN))),
  }
}

async function runOf({ db, temporal, taskQueue }: BenchHouse, credentials: number): Promise<number> {
  const name = `bench-${randomBase62(8).toLowerCase()}`
  await fill(db, name, credentials)
  const by = { at: new Date(), actor: 'bench' }
  const policy: Policy = { name, select: { labels: { bench: name } }, rate: '9999999/s', approvals: 'introducing' }
  await applyPolicies(db, { policies: [policy], order: 'keep', prune: false, ...by })
  const begun = performance.now()
  const { started, joined, ended } = await temporal.workflow.execute<typeof runPolicy>('runPolicy', {
    workflowId: `bench/${name}`,
    taskQueue,
    args: [{ policy: name }],
  })
  const rate = perSecond(credentials, begun)
  await removePolicy(db, { name, ...by })
  // Started or found running: each is on its way.
  if (started + joined !== credentials)
    throw new Error(`the run started ${started} of ${credentials} rotations, joined ${joined}, and ended: ${ended}`)
  return rate
}

async function emptyBurst({ temporal }: BenchHouse, count: number): Promise<number> {
  const run = randomBase62(8)
  const begun = performance.now()
  await inParallel(count, AT_ONCE, (i) =>
    temporal.workflow.start('empty', { workflowId: `bench/empty-${run}/${i}`, taskQueue: `nobody-${run}` }),
  )
  return perSecond(count, begun)
}

const perSecond = (count: number, begun: number): number => (count * 1_000) / (performance.now() - begun)

/** Credentials with keys that are 100 days old, published long ago and in use: there is nothing else to do about them. */
async function fill(db: BenchHouse['db'], label: string, count: number): Promise<void> {
  const made = { at: new Date(Date.now() - 100 * DAY_MS), actor: 'bench' }
  const sealer = createSealer(randomBytes(32))
  const { clientId } = await createClient(db, { name: 'Bench', contacts: [], ...made })
  await inParallel(count, 4, (i) =>
    createCredential(db, {
      clientId,
      name: `${label}-${i}`,
      environment: 'prod',
      scopes: ['orders:read'],
      labels: { bench: label },
      brand: 'kt',
      sealer,
      claimExpiresAt: new Date(made.at.getTime() + DAY_MS),
      ...made,
    }),
  )
  const theirs = 'key_id in (select key_id from keys join credentials using (credential_id) where labels @> $1)'
  const values = [{ bench: label }]
  await db.query(`update keys set published_revision = revision, published_at = not_before where ${theirs}`, values)
  await db.query(
    `insert into key_usage (key_id, first_accepted_at, last_accepted_at, accepted) select key_id, now(), now(), 1 from keys where ${theirs}`,
    values,
  )
}
