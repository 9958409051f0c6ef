/** What a policy will do in the days to come, told from the credentials as they are now. */
import { formatDuration, POLICY_RUN_MS, type Policy, Timestamp, termsOf } from '@keyturn/contract'
import Type from 'typebox'
import { closedSpans } from '../planning/blackouts.ts'
import { simulate } from '../planning/simulate.ts'
import { warnings } from '../planning/soundness.ts'
import { timingOf } from '../planning/timing.ts'
import { listPolicies, winnersOf } from '../registry/policies.ts'
import { policyMembers } from '../registry/schedule.ts'
import type { ApiDeps } from './ports.ts'
import { given } from './routes.ts'

const DAY = 86_400_000
const CLOSURES_SHOWN = 50

export const PreviewBody = Type.Object({
  name: Type.String(),
  credentials: Type.Integer({ description: 'how many it has, or would have' }),
  selectedByOthers: Type.Array(Type.Object({ policy: Type.String(), credentials: Type.Integer() }), {
    description: 'credentials that it selects, too, and that a more specific policy has',
  }),
  period: Type.String(),
  turn: Type.String({ description: 'how long it takes to rotate all: the period without the overlap, and some time to spare' }),
  from: Timestamp,
  to: Timestamp,
  starts: Type.Integer(),
  oldest: Type.Optional(Type.String({ description: 'how old the oldest key is when its rotation is started' })),
  days: Type.Array(Type.Object({ date: Type.String(), starts: Type.Integer(), closed: Type.String() }), {
    description: 'in UTC; closed: for how long a blackout forbids to start anything',
  }),
  waves: Type.Array(
    Type.Object({
      wave: Type.Integer({ description: 'counted from 1' }),
      starts: Type.Integer(),
      firstAt: Type.Optional(Timestamp),
      lastAt: Type.Optional(Timestamp),
    }),
    { description: 'if every rotation ends well' },
  ),
  closed: Type.Array(Type.Object({ from: Timestamp, to: Timestamp })),
  warnings: Type.Array(Type.String()),
})

interface WaveStarts {
  starts: number
  firstAt?: number
  lastAt?: number
}

/** @param days from now on */
export async function previewOf({ db, clock }: Pick<ApiDeps, 'db' | 'clock'>, policy: Policy, days: number) {
  const terms = termsOf(policy)
  const timing = timingOf(terms)
  const from = clock().getTime()
  const to = from + days * DAY
  const stored = (await listPolicies(db)).map((each) => each.policy)
  const policies = stored.some(({ name }) => name === policy.name)
    ? stored.map((each) => (each.name === policy.name ? policy : each))
    : [...stored, policy]
  const winners = await winnersOf(db, policies, policy)
  const members = await policyMembers(db, policies, policy.name)

  const perDay = new Map<string, number>()
  const waves: WaveStarts[] = terms.waves.map(() => ({ starts: 0 }))
  let [starts, oldestMs] = [0, 0]
  simulate(terms, members, { from, to, stepMs: POLICY_RUN_MS }, ({ at, ageMs, wave }) => {
    starts += 1
    oldestMs = Math.max(oldestMs, ageMs)
    perDay.set(dateOf(at), (perDay.get(dateOf(at)) ?? 0) + 1)
    const counted = waves[wave]
    if (counted === undefined) return
    counted.starts += 1
    counted.firstAt ??= at
    counted.lastAt = at
  })

  const closed = closedSpans(terms.blackout, { from, to })
  const closedOn = (date: string): number => {
    const [begins, ends] = [Math.max(from, Date.parse(date)), Math.min(to, Date.parse(date) + DAY)]
    return closed.reduce((sum, span) => sum + Math.max(0, Math.min(span.to, ends) - Math.max(span.from, begins)), 0)
  }
  return {
    name: policy.name,
    credentials: members.length,
    selectedByOthers: winners.filter(({ policy: name }) => name !== policy.name),
    period: formatDuration(terms.periodMs),
    turn: formatDuration(Math.round(timing.windowMs / 60_000) * 60_000),
    from: new Date(from).toISOString(),
    to: new Date(to).toISOString(),
    starts,
    ...given('oldest', starts === 0 ? undefined : formatDuration(Math.round(oldestMs / 3_600_000) * 3_600_000)),
    days: datesBetween(from, to).map((date) => ({
      date,
      starts: perDay.get(date) ?? 0,
      closed: formatDuration(Math.round(closedOn(date) / 60_000) * 60_000),
    })),
    waves: waves.map(({ starts: count, firstAt, lastAt }, i) => ({
      wave: i + 1,
      starts: count,
      ...given('firstAt', isoOf(firstAt)),
      ...given('lastAt', isoOf(lastAt)),
    })),
    closed: closed.slice(0, CLOSURES_SHOWN).map((span) => ({
      from: new Date(Math.max(span.from, from)).toISOString(),
      to: new Date(Math.min(span.to, to)).toISOString(),
    })),
    warnings: warnings(terms, from, members.length),
  }
}

const dateOf = (at: number): string => new Date(at).toISOString().slice(0, 10)
const isoOf = (at: number | undefined): string | undefined => (at === undefined ? undefined : new Date(at).toISOString())

function datesBetween(from: number, to: number): string[] {
  const dates: string[] = []
  for (let day = Math.floor(from / DAY) * DAY; day < to; day += DAY) dates.push(dateOf(day))
  return dates
}
