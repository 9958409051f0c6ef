/** How far a client has come: which of its programs use the new key, which still the old one, and when at this rate all will have moved. */
import { addressRange, type KeyId, type Program, type RotationId, type Switchover } from '@keyturn/contract'
import type { Database } from './database.ts'

/** A program that was just seen with both keys has several parts: it has moved when the old key has been quiet for so long. */
const SETTLED_MS = 10_000
/** Too soon for a rate. */
const RATE_AFTER_MS = 60_000
const HOUR_MS = 3_600_000

interface SqlSource {
  address: string
  user_agent: string
  old_last_at: Date | null
  new_first_at: Date | null
  new_last_at: Date | null
}

/** What is seen of one program: one user agent in one range of addresses. */
interface Seen {
  readonly userAgent: string
  readonly addresses: Set<string>
  readonly range: string
  oldLastAt?: Date
  newFirstAt?: Date
  newLastAt?: Date
}

/**
 * Of the old key, what was used since the rotation was opened or within the quiet period before. Nothing before there is a new key.
 * Primary keys; index key_sources_latest.
 */
export async function switchoverOf(db: Database, rotationId: RotationId): Promise<Switchover | undefined> {
  const [rotation] = await db.query<{
    oldKeyId: KeyId | null
    newKeyId: KeyId | null
    since: Date
    told: Date
    through: Date | null
  }>(
    `select r.old_key_id as "oldKeyId", r.new_key_id as "newKeyId", s.complete_through as through,
       r.opened_at - (r.policy ->> 'quietPeriodMs')::bigint * interval '1 millisecond' as since,
       coalesce((select min(t.at) from rotation_stages t where t.rotation_id = r.rotation_id and t.stage = 'notifying'), r.opened_at) as told
     from rotations r cross join usage_state s where r.rotation_id = $1`,
    [rotationId],
  )
  if (rotation === undefined || rotation.newKeyId === null) return undefined
  const { oldKeyId, newKeyId, since, told, through } = rotation
  const sources = await db.query<SqlSource>(
    `select address, user_agent, max(last_at) filter (where key_id = $1) as old_last_at,
       min(first_at) filter (where key_id = $2) as new_first_at, max(last_at) filter (where key_id = $2) as new_last_at
     from key_sources where key_id in ($1, $2) and (key_id = $2 or last_at >= $3)
     group by address, user_agent order by address, user_agent`,
    [oldKeyId, newKeyId, since],
  )
  const programs = programsOf(sources).map((seen) => toProgram(seen, through ?? undefined))
  return { programs, ...paceOf(programs, told, through ?? undefined) }
}

function programsOf(sources: readonly SqlSource[]): Seen[] {
  const programs = new Map<string, Seen>()
  for (const source of sources) {
    const range = addressRange(source.address)
    const name = JSON.stringify([range, source.user_agent])
    const seen: Seen = programs.get(name) ?? { userAgent: source.user_agent, addresses: new Set(), range }
    programs.set(name, seen)
    seen.addresses.add(source.address)
    const oldLastAt = latest(seen.oldLastAt, source.old_last_at)
    const newLastAt = latest(seen.newLastAt, source.new_last_at)
    if (oldLastAt !== undefined) seen.oldLastAt = oldLastAt
    if (newLastAt !== undefined) seen.newLastAt = newLastAt
    const { new_first_at: first } = source
    if (first !== null && (seen.newFirstAt === undefined || first < seen.newFirstAt)) seen.newFirstAt = first
  }
  return [...programs.values()]
}

const latest = (a: Date | undefined, b: Date | null): Date | undefined => (b !== null && (a === undefined || b > a) ? b : a)

function toProgram({ userAgent, addresses, range, oldLastAt, newFirstAt, newLastAt }: Seen, through: Date | undefined): Program {
  const [address = range] = addresses
  const movedAt = movedWhen({ oldLastAt, newFirstAt, newLastAt }, through)
  return {
    userAgent,
    addresses: addresses.size === 1 ? address : range,
    ...(movedAt === undefined ? {} : { movedAt: movedAt.toISOString() }),
    ...(oldLastAt === undefined ? {} : { oldLastAt: oldLastAt.toISOString() }),
    ...(newFirstAt === undefined ? {} : { newFirstAt: newFirstAt.toISOString() }),
  }
}

function movedWhen(
  { oldLastAt, newFirstAt, newLastAt }: { [K in 'oldLastAt' | 'newFirstAt' | 'newLastAt']: Date | undefined },
  through: Date | undefined,
): Date | undefined {
  if (newFirstAt === undefined || newLastAt === undefined) return undefined
  if (oldLastAt === undefined || oldLastAt < newFirstAt) return newFirstAt
  const settled = through !== undefined && through.getTime() - oldLastAt.getTime() >= SETTLED_MS
  return newLastAt > oldLastAt && settled ? oldLastAt : undefined
}

/** Since the client was told, evenly: nobody knows better. */
function paceOf(programs: readonly Program[], told: Date, through: Date | undefined): Omit<Switchover, 'programs'> {
  const times = programs.flatMap(({ movedAt }) => (movedAt === undefined ? [] : [Date.parse(movedAt)]))
  const [moved, total] = [times.length, programs.length]
  const counts = { moved, total }
  if (moved > 0 && moved === total) return { ...counts, doneAt: new Date(Math.max(...times)).toISOString() }
  const elapsedMs = through === undefined ? 0 : through.getTime() - told.getTime()
  if (moved === 0 || through === undefined || elapsedMs < RATE_AFTER_MS) return counts
  const doneAt = new Date(through.getTime() + ((total - moved) * elapsedMs) / moved)
  return { ...counts, perHour: Math.round((moved * HOUR_MS * 10) / elapsedMs) / 10, doneAt: doneAt.toISOString() }
}
