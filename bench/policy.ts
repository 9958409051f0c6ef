/**
 * How fast a run of a policy starts rotations, beside the server's own burst of empty workflows: as many workflows, started by as many
 * calls at once as a run makes, and that nobody works on.
 */
import { randomBytes } from 'node:crypto'
import { newKeyId, type Policy, randomBase62, tokenSha256 } from '@keyturn/contract'
import type { Client } from '@temporalio/client'
import type { Database } from '../registry/database.ts'
import { applyPolicies, removePolicy } from '../registry/policies.ts'
import type { runPolicy } from '../workflows/index.ts'

const DAY = 86_400_000
/** A run starts a page of so many at once. */
const AT_ONCE = 250

/** A registry, and a rotation worker that works on it. */
export interface PolicyHouse {
  readonly db: Database
  readonly temporal: Client
  readonly taskQueue: string
}

export interface PolicyFigures {
  readonly credentials: number
  /** Starts a second. */
  readonly runPolicyPerSecond: number
  readonly emptyWorkflowsPerSecond: number
  /** The first as a part of the second. */
  readonly ratio: number
}

/** @param options how many credentials are due */
export async function measurePolicy(house: PolicyHouse, { credentials = 1_000 } = {}): Promise<PolicyFigures> {
  const { db, temporal, taskQueue } = house
  const emptyWorkflowsPerSecond = await burst(temporal, credentials)
  const name = `bench-${randomBase62(8).toLowerCase()}`
  const policy: Policy = { name, select: { labels: { bench: name } }, rate: '9999999/s' }
  await fill(db, name, credentials)
  const by = { at: new Date(), actor: 'bench' }
  await applyPolicies(db, { policies: [policy], order: 'keep', prune: false, ...by })
  const begun = performance.now()
  const { started } = await temporal.workflow.execute<typeof runPolicy>('runPolicy', {
    workflowId: `bench/${name}`,
    taskQueue,
    args: [{ policy: name }],
  })
  const runPolicyPerSecond = perSecond(credentials, begun)
  await removePolicy(db, { name, ...by })
  if (started !== credentials) throw new Error(`the run started ${started} of ${credentials} rotations`)
  return { credentials, runPolicyPerSecond, emptyWorkflowsPerSecond, ratio: runPolicyPerSecond / emptyWorkflowsPerSecond }
}

const perSecond = (count: number, begun: number): number => (count * 1_000) / (performance.now() - begun)

async function burst(temporal: Client, count: number): Promise<number> {
  const run = randomBase62(8)
  const begun = performance.now()
  for (let i = 0; i < count; i += AT_ONCE) {
    await Promise.all(
      Array.from({ length: Math.min(AT_ONCE, count - i) }, (_, j) =>
        temporal.workflow.start('empty', { workflowId: `bench/${run}/${i + j}`, taskQueue: `nobody-${run}` }),
      ),
    )
  }
  return perSecond(count, begun)
}

/** Credentials with keys that are 100 days old, written at once. */
async function fill(db: Database, label: string, count: number): Promise<void> {
  const clientId = `cli_${randomBase62(16)}`
  const keys = Array.from({ length: count }, () => ({
    keyId: newKeyId(),
    credentialId: `crd_${randomBase62(16)}`,
    sha256: tokenSha256(randomBytes(32).toString('hex')),
  }))
  const made = new Date(Date.now() - 100 * DAY)
  await db.tx(async (tx) => {
    await tx.query(`insert into clients (client_id, name, created_at) values ($1, 'bench', $2)`, [clientId, made])
    await tx.query(
      `insert into credentials (credential_id, client_id, name, environment, scopes, labels, created_at)
       select id, $2, id, 'prod', '{read}', $4, $3 from unnest($1::text[]) id`,
      [keys.map(({ credentialId }) => credentialId), clientId, made, { bench: label }],
    )
    for (const { keyId } of keys) {
      await tx.query(
        `insert into audit (seq, at, actor, action, subject, revision, detail, prev_hash, hash) values (0, $2, 'bench', 'key.introduced', $1, 1, '{}', '', '')`,
        [keyId, made],
      )
    }
    await tx.query(
      `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
       select k.key_id, k.credential_id, 1, 'active', 'current', 'keyturn.key.introduced',
         jsonb_build_object('kind', 'bearer', 'sha256', k.sha256), $4, $4
       from unnest($1::text[], $2::text[], $3::text[]) k (key_id, credential_id, sha256)`,
      [keys.map(({ keyId }) => keyId), keys.map(({ credentialId }) => credentialId), keys.map(({ sha256 }) => sha256), made],
    )
  })
}
