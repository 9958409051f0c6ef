/** Recording what is reported: one incident for each token, by its hash, and the sightings that it has been reported with. */
import { createHash } from 'node:crypto'
import {
  type KeyId,
  type KeyState,
  type LeakId,
  type LeakMatch,
  type LeakStatus,
  randomBase62,
  scannerExpression,
  sha256ToHex,
} from '@keyturn/contract'
import { appendAudit } from './audit.ts'
import type { Database, Tx } from './database.ts'
import { type Reporter, type TokenHash, USAGE_OF } from './leaks.ts'
import { storable } from './storable.ts'

export interface Sighting {
  readonly hash: TokenHash
  /** Who found it. */
  readonly source: string
  /** Where. Never with the token in it. */
  readonly url?: string
  /** When, as they say. */
  readonly foundAt?: Date
}

export interface RecordedLeak {
  readonly leakId: LeakId
  readonly matched: LeakMatch
  readonly status: LeakStatus
  /** Whether this is the first report of the token. */
  readonly isNew: boolean
}

/** What one transaction records at most: it holds the audit log's head while it does. */
const AT_ONCE = 1_000

const TOKENS = new RegExp(scannerExpression(), 'g')
/** Shorter strings are no secrets, and taking them out would take words apart. */
const SHORTEST_SECRET = 8

/** A report as it is recorded: the token hashed, and out of whatever text it stands in (G5). */
export function toSighting(report: {
  readonly token?: string
  readonly tokenSha256?: string
  readonly source: string
  readonly url?: string
  readonly at?: string
}): Sighting {
  const { token, tokenSha256 = '', source, url, at } = report
  const hex = token === undefined ? sha256ToHex(tokenSha256) : createHash('sha256').update(token, 'utf8').digest('hex')
  return {
    hash: { kind: 'sha256', hex },
    source: withoutTokens(source, token),
    ...(url === undefined ? {} : { url: withoutTokens(url, token) }),
    ...(at === undefined ? {} : { foundAt: new Date(at) }),
  }
}

export function withoutTokens(text: string, token?: string): string {
  let clean = text.replaceAll('\0', '')
  if (token !== undefined && token.length >= SHORTEST_SECRET)
    clean = clean.replaceAll(token, '[redacted]').replaceAll(encodeURIComponent(token), '[redacted]')
  return clean.replaceAll(TOKENS, '[redacted]')
}

/**
 * Records what was reported: each token's incident once, each sighting once. Again changes nothing but a count. What is
 * recorded stays, should a later part fail; the same report may be brought again.
 * @returns the incident of each sighting, in their order
 */
export async function recordLeaks(
  db: Database,
  { sightings, reporter, at }: { sightings: readonly Sighting[]; reporter: Reporter; at: Date },
): Promise<RecordedLeak[]> {
  const recorded: RecordedLeak[] = []
  for (let i = 0; i < sightings.length; i += AT_ONCE) {
    const part = sightings.slice(i, i + AT_ONCE).map(storableSighting)
    recorded.push(...(await db.tx((tx) => recordPart(tx, part, reporter, at))))
  }
  return recorded
}

/** Two that are stored as one have to be one here, too. */
const storableSighting = (sighting: Sighting): Sighting => ({
  ...sighting,
  source: storable(sighting.source),
  ...(sighting.url === undefined ? {} : { url: storable(sighting.url) }),
})

interface MatchedKey {
  readonly key_id: KeyId
  readonly sha256: string
  readonly hmsl_hash: string | null
  readonly state: KeyState
  readonly is_old: boolean
}

async function recordPart(tx: Tx, sightings: readonly Sighting[], reporter: Reporter, at: Date): Promise<RecordedLeak[]> {
  const keys = await matchKeys(tx, sightings)
  const hashOf = ({ hash }: Sighting): string => {
    const key = keys.get(hashText(hash))
    return key === undefined ? hashText(hash) : `sha256:${key.sha256}`
  }
  const hashes = [...new Set(sightings.map(hashOf))].sort()
  const { incidents, added } = await upsertIncidents(tx, hashes, keys, at)
  const placed = sightings.map((sighting) => {
    const leak = incidents.get(hashOf(sighting))
    if (leak === undefined) throw new Error('an incident that was just recorded is not there')
    return { ...sighting, leak, isNew: added.has(leak.leak_id) }
  })
  await noteSightings(tx, placed, reporter, at)
  return placed.map(({ leak, isNew }) => ({ leakId: leak.leak_id, matched: leak.matched, status: leak.status, isNew }))
}

const hashText = ({ kind, hex }: TokenHash): string => `${kind}:${hex}`

/** The keys that reported tokens are, by the text of the reported hash. Indexes keys_by_verifier, keys_by_token, keys_by_hmsl, rotations_open. */
async function matchKeys(tx: Tx, sightings: readonly Sighting[]): Promise<Map<string, MatchedKey>> {
  const of = (kind: TokenHash['kind']): string[] => sightings.flatMap(({ hash }) => (hash.kind === kind ? [hash.hex] : []))
  const { rows } = await tx.query<MatchedKey>(
    `select k.key_id, encode(decode(coalesce(k.verifier_sha256, k.token_sha256), 'base64'), 'hex') as sha256, k.hmsl_hash, k.state,
       coalesce(r.old_key_id = k.key_id, false) as is_old
     from keys k left join rotations r on r.credential_id = k.credential_id and r.ended_at is null
     where k.verifier_sha256 = any($1) or k.token_sha256 = any($1) or k.hmsl_hash = any($2)`,
    [of('sha256').map((hex) => Buffer.from(hex, 'hex').toString('base64')), of('hmsl')],
  )
  const found = new Map<string, MatchedKey>()
  for (const row of rows) {
    found.set(`sha256:${row.sha256}`, row)
    if (row.hmsl_hash !== null) found.set(`hmsl:${row.hmsl_hash}`, row)
  }
  return found
}

interface Incident {
  readonly leak_id: LeakId
  readonly token_hash: string
  readonly matched: LeakMatch
  readonly key_id: KeyId | null
  readonly status: LeakStatus
}

const matchOf = (key: MatchedKey | undefined): LeakMatch => {
  if (key === undefined) return 'unknown'
  if (key.state === 'deactivated' || key.state === 'compromised' || key.state === 'destroyed') return 'dead'
  return key.is_old ? 'old' : 'live'
}

/** What is dead for good, and what is none of ours, needs no answer. A key that was only switched off is made compromised. */
const needsResponse = (key: MatchedKey | undefined): boolean =>
  key !== undefined && key.state !== 'compromised' && key.state !== 'destroyed'

/** Index leaks_token_hash_key. The order of hashes, and the locks, keep two reports of the same tokens from waiting for each other. */
async function upsertIncidents(
  tx: Tx,
  hashes: readonly string[],
  keys: ReadonlyMap<string, MatchedKey>,
  at: Date,
): Promise<{ incidents: Map<string, Incident>; added: Set<LeakId> }> {
  const matched = hashes.map((hash) => keys.get(hash))
  const values = [
    hashes,
    hashes.map(() => `leak_${randomBase62(16)}`),
    matched.map(matchOf),
    matched.map((key) => key?.key_id),
    matched.map((key) => (needsResponse(key) ? 'open' : 'closed')),
    at,
  ]
  const NEW = `unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) as n (token_hash, leak_id, matched, key_id, status)`
  const CLOSED_AT = `case n.status when 'closed' then $6::timestamptz end`
  const { rows: added } = await tx.query<{ leak_id: LeakId }>(
    `insert into leaks (leak_id, token_hash, matched, key_id, status, reported_at, usage_before, closed_at)
     select n.leak_id, n.token_hash, n.matched, n.key_id, n.status, $6::timestamptz, ${USAGE_OF('n.key_id')}, ${CLOSED_AT}
     from ${NEW} order by n.token_hash
     on conflict (token_hash) do nothing returning leak_id`,
    values,
  )
  // A token that was none of ours when it was first reported may have become one since (an import).
  await tx.query(
    `update leaks set matched = n.matched, key_id = n.key_id, status = n.status, usage_before = ${USAGE_OF('n.key_id')}, closed_at = ${CLOSED_AT}
     from ${NEW}
     where leaks.token_hash = n.token_hash and leaks.key_id is null and n.key_id is not null`,
    values,
  )
  const { rows } = await tx.query<Incident>(
    'select leak_id, token_hash, matched, key_id, status from leaks where token_hash = any($1) order by token_hash for no key update',
    [hashes],
  )
  return {
    incidents: new Map(rows.map((row) => [row.token_hash, row])),
    added: new Set(added.map(({ leak_id }) => leak_id)),
  }
}

type Placed = Sighting & { readonly leak: Incident; readonly isNew: boolean }

/** Index leak_sightings_pkey. Only what is new is audited; tokens that are none of ours in one entry for all. */
async function noteSightings(tx: Tx, placed: readonly Placed[], reporter: Reporter, at: Date): Promise<void> {
  const counted = new Map<string, Placed & { readonly times: number }>()
  for (const each of placed) {
    const place = JSON.stringify([each.leak.leak_id, each.source, each.url ?? ''])
    counted.set(place, { ...each, times: (counted.get(place)?.times ?? 0) + 1 })
  }
  const distinct = [...counted.values()]
  const { rows } = await tx.query<{ leak_id: LeakId; source: string; url: string; fresh: boolean }>(
    `insert into leak_sightings as s (leak_id, source, url, reporter, found_at, first_at, last_at, times)
     select n.leak_id, n.source, n.url, $5, n.found_at, $6::timestamptz, $6::timestamptz, n.times
     from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $7::integer[]) as n (leak_id, source, url, found_at, times)
     on conflict (leak_id, place) do update set times = s.times + excluded.times, last_at = greatest(s.last_at, excluded.last_at)
     returning leak_id, source, url, xmax = 0 as fresh`,
    [
      distinct.map(({ leak }) => leak.leak_id),
      distinct.map(({ source }) => source),
      distinct.map(({ url }) => url ?? ''),
      distinct.map(({ foundAt }) => foundAt),
      reporter,
      at,
      distinct.map(({ times }) => times),
    ],
  )
  const byLeak = new Map(placed.map((each) => [each.leak.leak_id, each]))
  const fresh = rows.flatMap((row) => {
    const of = byLeak.get(row.leak_id)
    return row.fresh && of !== undefined ? [{ ...row, ...of.leak, isNew: of.isNew }] : []
  })
  for (const { leak_id, source, url, matched, key_id, isNew } of fresh.filter((each) => each.key_id !== null)) {
    const action = isNew ? 'leak.reported' : 'leak.sighted'
    await appendAudit(tx, { at, actor: reporter, action, subject: leak_id, detail: { source, url, matched, keyId: key_id } })
  }
  const unknown = fresh.filter((each) => each.key_id === null)
  const [first] = unknown
  if (first === undefined) return
  const detail = { source: first.source, matched: 'unknown', sightings: unknown.length }
  await appendAudit(tx, { at, actor: reporter, action: 'leak.reported', subject: first.leak_id, detail })
}
