/** The report of one incident: what happened when, who was told, which gateways refused, and who used the key since. */
import type { GatewayReceipt, KeyId, KeyState } from '@keyturn/contract'
import { listAudit } from './audit.ts'
import { type Client, getClient } from './clients.ts'
import { type Credential, getCredential } from './credentials.ts'
import type { Database } from './database.ts'
import { getKey } from './keys.ts'
import { type UsageSinceLeak, usageSinceLeak } from './leak-usage.ts'
import { getLeak, type Leak, type SeenAt, sightingsOf } from './leaks.ts'
import { getRotation, type Rotation } from './rotations.ts'
import { readEvidence } from './usage.ts'

const SIGHTINGS_SHOWN = 200
const ENTRIES_READ = 1_000

export interface IncidentReport {
  readonly leak: Leak
  readonly sightings: readonly SeenAt[]
  /** Oldest first. */
  readonly timeline: readonly Happening[]
  readonly key?: { readonly keyId: KeyId; readonly version: number; readonly state: KeyState }
  readonly credential?: Credential
  readonly client?: Client
  readonly rotation?: Rotation
  readonly newKey?: { readonly keyId: KeyId; readonly version: number; readonly firstUsedAt?: string }
  readonly told: readonly { readonly at: Date; readonly message: string; readonly to: readonly string[] }[]
  /** When each gateway began to refuse the key. */
  readonly refusals: readonly { readonly gatewayId: string; readonly refusedAt: string; readonly ms: number }[]
  /** Gateways that have not said so. */
  readonly unconfirmed: readonly string[]
  readonly usage?: UsageSinceLeak
}

export interface Happening {
  readonly at: string
  readonly what: string
}

/** As things stand; final once the leak is closed. Undefined when there is no such leak. */
export async function incidentReport(db: Database, leakId: string): Promise<IncidentReport | undefined> {
  const leak = await getLeak(db, leakId)
  if (leak === undefined) return undefined
  const key = leak.keyId === undefined ? undefined : await getKey(db, leak.keyId)
  const rotation = leak.rotationId === undefined ? undefined : await getRotation(db, leak.rotationId)
  const [sightings, credential, client, told, usage, newKey] = await Promise.all([
    sightingsOf(db, leakId, SIGHTINGS_SHOWN),
    key === undefined ? undefined : getCredential(db, key.credentialId),
    key === undefined ? undefined : getClient(db, key.clientId),
    tellings(db, leak),
    usageSinceLeak(db, leak.leakId),
    rotation?.newKeyId === undefined ? undefined : successor(db, rotation, rotation.newKeyId),
  ])
  const { refusals, unconfirmed } = refusalsOf(leak, rotation)
  return {
    leak,
    sightings,
    told,
    refusals,
    unconfirmed,
    timeline: timelineOf(leak, { sightings, told, refusals, rotation }),
    ...(key === undefined ? {} : { key: { keyId: key.keyId, version: key.version, state: key.state } }),
    ...(credential === undefined ? {} : { credential }),
    ...(client === undefined ? {} : { client }),
    ...(rotation === undefined ? {} : { rotation }),
    ...(newKey === undefined ? {} : { newKey }),
    ...(usage === undefined ? {} : { usage }),
  }
}

async function successor(db: Database, rotation: Rotation, keyId: KeyId): Promise<IncidentReport['newKey']> {
  const [key, evidence] = await Promise.all([getKey(db, keyId), readEvidence(db, rotation.rotationId)])
  if (key === undefined) return undefined
  const firstUsedAt = evidence.newKeyFirstUsedAt
  return { keyId, version: key.version, ...(firstUsedAt === undefined ? {} : { firstUsedAt }) }
}

/** What the audit log says that the client was told: of the rotation, and of the leak itself. */
async function tellings(db: Database, { leakId, rotationId, reportedAt }: Leak): Promise<IncidentReport['told']> {
  const [ofRotation, ofLeak] = await Promise.all([
    rotationId === undefined ? [] : listAudit(db, { rotationId, limit: ENTRIES_READ }),
    listAudit(db, { subject: leakId, limit: ENTRIES_READ }),
  ])
  return [...ofRotation, ...ofLeak]
    .filter(({ action, at }) => action === 'client.told' && at >= reportedAt)
    .map(({ at, detail }) => ({ at, message: String(detail['message']), to: (detail['to'] as string[] | undefined) ?? [] }))
}

/** The first word of each gateway that it has applied the key's end; an emergency publishes it more than once. */
function refusalsOf(leak: Leak, rotation: Rotation | undefined): Pick<IncidentReport, 'refusals' | 'unconfirmed'> {
  const ofRotation = rotation?.receipts.filter(({ keyId, event }) => keyId === leak.keyId && event === 'keyturn.key.compromised')
  const receipts = [...(leak.receipt === undefined ? [] : [leak.receipt]), ...(ofRotation ?? [])]
  const earliest = new Map<string, GatewayReceipt>()
  for (const gateway of receipts.flatMap(({ gateways }) => gateways)) {
    const known = earliest.get(gateway.gatewayId)
    if (known === undefined || gateway.appliedAt < known.appliedAt) earliest.set(gateway.gatewayId, gateway)
  }
  const refusals = [...earliest.values()]
    .map(({ gatewayId, appliedAt, ms }) => ({ gatewayId, refusedAt: appliedAt, ms }))
    .sort((a, b) => Date.parse(a.refusedAt) - Date.parse(b.refusedAt))
  const missing = new Set(receipts.flatMap(({ unconfirmed }) => unconfirmed))
  return { refusals, unconfirmed: [...missing].filter((gatewayId) => !earliest.has(gatewayId)).sort() }
}

function timelineOf(
  leak: Leak,
  {
    sightings,
    told,
    refusals,
    rotation,
  }: Pick<IncidentReport, 'sightings' | 'told' | 'refusals'> & { rotation: Rotation | undefined },
): Happening[] {
  const happened: Happening[] = [
    ...sightings.map(({ firstAt, source, url, reporter }) => ({
      at: firstAt.toISOString(),
      what: `reported by ${source}${url === '' ? '' : ` at ${url}`} (through ${reporter})`,
    })),
    ...refusals.map(({ gatewayId, refusedAt }) => ({ at: refusedAt, what: `refused by ${gatewayId}` })),
    ...told.map(({ at, message, to }) => ({ at: at.toISOString(), what: `client told "${message}" (${to.join(', ')})` })),
    ...(rotation?.timeline ?? [])
      .filter(({ at }) => Date.parse(at) >= leak.reportedAt.getTime())
      .map(({ at, stage, reason }) => ({ at, what: `rotation ${stage}${reason === undefined ? '' : `: ${reason}`}` })),
  ]
  if (leak.containedAt !== undefined) happened.push({ at: leak.containedAt.toISOString(), what: 'key compromised' })
  if (leak.closedAt !== undefined) happened.push({ at: leak.closedAt.toISOString(), what: 'leak closed' })
  return happened.sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
}
