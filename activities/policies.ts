import {
  formatDuration,
  type PlanCursor,
  type PlannedStart,
  type PolicyPlan,
  type PolicyRunEnd,
  type RotationId,
  randomBase62,
} from '@keyturn/contract'
import { gapBetweenStarts, spread } from '../planning/spread.ts'
import { sectorsOf } from '../planning/sweep.ts'
import { plannedAt, type Timing, timingOf } from '../planning/timing.ts'
import { angleOf, gapOf, layWaves, type Wave, waveSizes } from '../planning/waves.ts'
import { createWheel, type Wheel } from '../planning/wheel.ts'
import type { Database } from '../registry/database.ts'
import { getPolicy, type StoredPolicy, stopPolicy } from '../registry/policies.ts'
import * as registry from '../registry/schedule.ts'
import type { Alerts } from './alerts.ts'

/** So many starts are planned at once: more would make a run's history and its payloads large. */
const PAGE = 100

export interface PlanInput {
  readonly policy: string
  /** Now, and the end of the run, in the workflow's time. */
  readonly at: number
  readonly until: number
  /** When this run has started its last one: that may not be on record yet. */
  readonly lastStartAt?: number
  readonly after?: PlanCursor
}

/** What the schedule of a policy is to start next. Everything is read anew each time, so that a changed policy counts at once. */
export function createPolicyActivities({ db, alerts }: { db: Database; alerts: Alerts }) {
  const wheels = rememberWheels()

  const planPolicyRun = async (input: PlanInput): Promise<PolicyPlan> => {
    const stored = await getPolicy(db, input.policy)
    if (stored === undefined) return nothing('gone')
    if (stored.stopped !== undefined) return nothing('stopped')
    const { terms } = stored
    const timing = timingOf(terms)
    const wheel = wheels(stored, timing, input.until)
    const cycle = Math.floor(wheel.turnsAt(input.at))
    const count = await registry.countCredentials(db, stored.name)
    const waves = await wavesOf(stored, timing, count)
    const states = new Map(
      (await registry.waveStates(db, stored.name, cycle, stored.countedFrom)).map((state) => [state.wave, state]),
    )
    for (const wave of waves) {
      const failed = states.get(wave.index)?.failed ?? 0
      if (failed <= terms.stopAbove * wave.size) continue
      await stop(stored, wave, failed, cycle, input.at)
      return nothing('stopped')
    }

    if (wheel.openFrom(input.at) >= input.until) return nothing('closed')
    const { open, lastStartAt } = await registry.scheduleState(db, stored.name)
    const room = Math.min(PAGE, (terms.concurrency ?? Infinity) - open)
    if (room <= 0) return nothing('full')
    const gapMs = gapBetweenStarts(terms, count, wheel.speedAt(input.at))
    const last = Math.max(input.lastStartAt ?? 0, lastStartAt?.getTime() ?? 0)
    const from = Math.max(input.at, last + gapMs)
    for (const wave of waves.filter(({ index }) => index >= (input.after?.wave ?? 0))) {
      const due = await dueOf(stored.name, wheel, timing, wave, input)
      if (due.length > 0) {
        const starts = spread(due, { from, until: input.until, gapMs, wheel }).slice(0, room)
        return {
          starts: starts.map(({ credentialId, clientId, environment, at }): PlannedStart => {
            const rotationId = `rot_${randomBase62(16)}` as RotationId
            return { credentialId, clientId, environment, rotationId, at, wave: wave.index }
          }),
          ...nextPage(wave, starts),
          outcome: starts.length === room && room < PAGE ? 'full' : 'done',
          rotation: terms.rotation,
          cycle,
          reason: `policy ${stored.name}: every ${formatDuration(terms.periodMs)}`,
        }
      }
      // The next wave begins when this one has ended; of what has just been started there may be no record yet.
      if (input.after !== undefined) return nothing('done')
      if ((states.get(wave.index)?.running ?? 0) > 0 && wave !== waves.at(-1)) return nothing('waiting')
    }
    return nothing('done')
  }

  async function dueOf(policy: string, wheel: Wheel, timing: Timing, wave: Wave, { at, until, after }: PlanInput) {
    const candidates = await registry.dueCredentials(db, {
      policy,
      sectors: sectorsOf(wheel, timing, wave, until),
      rolledBackBefore: new Date(at - timing.retryAfterMs),
      limit: 2 * PAGE,
      ...(after === undefined ? {} : { after: { createdAt: new Date(after.createdAt), credentialId: after.credentialId } }),
    })
    return candidates
      .map((candidate) => {
        const createdAt = candidate.createdAt.getTime()
        return { ...candidate, createdAt, plannedAt: plannedAt(wheel, timing, angleOf(wave, candidate.place), createdAt) }
      })
      .filter(({ plannedAt: planned }) => planned < until)
  }

  async function wavesOf({ name, terms }: StoredPolicy, timing: Timing, count: number): Promise<Wave[]> {
    const sizes = waveSizes(terms.waves, count)
    const places = new Map<number, number>()
    let rank = 0
    for (const size of sizes.slice(0, -1)) {
      rank += size
      places.set(rank, await registry.placeOfRank(db, name, rank))
    }
    return layWaves(sizes, gapOf(terms, timing), (wanted) => places.get(wanted) ?? 1)
  }

  /** Nothing more is started, and people are told; the alert names the rotation that failed last. */
  async function stop(stored: StoredPolicy, wave: Wave, failed: number, cycle: number, at: number): Promise<void> {
    const reason = `${failed} of the ${wave.size} rotations of wave ${wave.index + 1} are held or rolled back`
    const last = await registry.lastFailed(db, stored.name, cycle, stored.countedFrom)
    await stopPolicy(db, { name: stored.name, reason, at: new Date(at) }, async () => {
      if (last === undefined) return
      const detail = `the policy ${stored.name} is stopped: ${reason}. Look at them; then \`keyturn policy resume ${stored.name}\``
      await alerts.raise({ kind: 'policy-stopped', ...last, detail })
    })
  }

  return { planPolicyRun }
}

/** Behind the one with the youngest key: in this order they are read. */
function nextPage(
  { index }: Wave,
  starts: readonly { createdAt: number; credentialId: PlanCursor['credentialId'] }[],
): { next?: PlanCursor } {
  if (starts.length < PAGE) return {}
  const [last] = starts.toSorted((a, b) => b.createdAt - a.createdAt || (a.credentialId < b.credentialId ? 1 : -1))
  return last === undefined ? {} : { next: { wave: index, createdAt: last.createdAt, credentialId: last.credentialId } }
}

const nothing = (outcome: PolicyRunEnd): PolicyPlan => ({ starts: [], outcome, cycle: 0, reason: '' })

/** Wheels are made once for each version of a policy, and again when time has come to their end. */
function rememberWheels() {
  const known = new Map<string, { revision: number; until: number; wheel: Wheel }>()
  return ({ name, revision, terms }: StoredPolicy, { windowMs }: Timing, until: number): Wheel => {
    const found = known.get(name)
    if (found?.revision === revision && until <= found.until) return found.wheel
    const made = {
      revision,
      until: until + windowMs,
      wheel: createWheel({ windowMs, blackout: terms.blackout, until: until + windowMs }),
    }
    known.set(name, made)
    return made.wheel
  }
}
