/**
 * What session tokens are signed with. Each key signs for one period. Its successor is published before that is over, and it stays
 * published itself until the last token that it signed is dead, so that no gateway meets a token of a key that it does not know.
 */
import { generateKeyPairSync } from 'node:crypto'
import { MOST_SESSION_MS, type Sealed } from '@keyturn/contract'
import { calculateJwkThumbprint } from 'jose'
import { appendAudit } from './audit.ts'
import { type Database, first, type Tx } from './database.ts'
import type { Sealer } from './sealing.ts'

/** A key is published for so long before it signs: gateways fetch the set every minute. */
const AHEAD_MS = 3_600_000
/** The same when a person asks for a new key. */
const ASKED_AHEAD_MS = 600_000
/** The clocks of our processes and of the gateways differ by no more. */
const CLOCK_SPREAD_MS = 5 * 60_000

interface SigningKey {
  readonly kid: string
  /** base64url, 32 bytes. */
  readonly publicKey: string
  readonly createdAt: Date
  readonly signsFrom: Date
  readonly signsUntil?: Date
  readonly publishedUntil?: Date
  /** Its private half is still there. */
  readonly sealed: boolean
}

export interface SigningKeyTerms {
  readonly sealer: Sealer
  /** How long each key signs. */
  readonly periodMs: number
  readonly at: Date
}

interface SqlSigningKey {
  kid: string
  public_key: string
  created_at: Date
  signs_from: Date
  signs_until: Date | null
  published_until: Date | null
  ciphertext: Buffer | null
}

const toKey = (row: SqlSigningKey): SigningKey => ({
  kid: row.kid,
  publicKey: row.public_key,
  createdAt: row.created_at,
  signsFrom: row.signs_from,
  sealed: row.ciphertext !== null,
  ...(row.signs_until === null ? {} : { signsUntil: row.signs_until }),
  ...(row.published_until === null ? {} : { publishedUntil: row.published_until }),
})

/** Of what a sealed key belongs to. */
const aadOf = (kid: string): string => `signing-key/${kid}`

/** All that are published at a time, the oldest first: new ones are made and old ones wiped on the way. The table is tiny. */
export async function publishedKeys(db: Database, terms: SigningKeyTerms): Promise<SigningKey[]> {
  const read = async (): Promise<SigningKey[]> =>
    (await db.query<SqlSigningKey>('select * from signing_keys order by signs_from')).map(toKey)
  const known = await read()
  if (!isDue(known, terms)) return known.filter((key) => isPublished(key, terms.at))
  await db.tx((tx) => settle(tx, terms))
  return (await read()).filter((key) => isPublished(key, terms.at))
}

/** The key that signs at a time, opened. */
export async function signingKeyAt(
  db: Database,
  terms: SigningKeyTerms,
): Promise<{ kid: string; secret: string; publicKey: string }> {
  const { sealer, at } = terms
  await publishedKeys(db, terms)
  const [key] = await db.query<Omit<SqlSigningKey, 'ciphertext'> & { kek_id: string } & Sealed>(
    `select * from signing_keys where signs_from <= $1 and (signs_until is null or signs_until > $1) and ciphertext is not null
     order by signs_from desc limit 1`,
    [at],
  )
  if (key === undefined) throw new Error('no signing key is due: is the clock of this process wrong?')
  const { kid, kek_id: kekId, nonce, ciphertext, public_key: publicKey } = key
  return { kid, publicKey, secret: sealer.open({ kekId, nonce, ciphertext }, aadOf(kid)) }
}

/**
 * Has the next key sign soon. Of a compromised one, and its successor, nothing is left: every session is dead as soon as the gateways
 * have fetched the new set.
 * @returns the new key's id, and since when it signs
 */
export async function rotateSigningKey(
  db: Database,
  terms: SigningKeyTerms & { actor: string; reason: string; compromised: boolean },
): Promise<{ kid: string; signsFrom: Date }> {
  const { at, actor, reason, compromised } = terms
  return db.tx(async (tx) => {
    await settle(tx, terms)
    if (compromised) {
      const { rows } = await tx.query<{ kid: string }>('delete from signing_keys returning kid')
      await appendAudit(tx, {
        at,
        actor,
        action: 'signing-key.compromised',
        subject: 'signing-keys',
        detail: { reason, kids: rows.map(({ kid }) => kid).sort() },
      })
      return insert(tx, terms, at, actor)
    }
    const soon = new Date(at.getTime() + ASKED_AHEAD_MS)
    const last = await lastOf(tx)
    const next =
      last === undefined || last.signs_from <= at ? await succeed(tx, terms, last, soon, actor) : await hasten(tx, last, soon)
    await appendAudit(tx, { at, actor, action: 'signing-key.rotated', subject: next.kid, detail: { reason } })
    return next
  })
}

/** Moves those that are sealed under another key of the sealer to its first one. @returns how many */
export async function resealSigningKeys(tx: Tx, sealer: Sealer): Promise<number> {
  const [, ...old] = sealer.kekIds
  const { rows } = await tx.query<{ kid: string; kek_id: string; nonce: Buffer; ciphertext: Buffer }>(
    'select kid, kek_id, nonce, ciphertext from signing_keys where kek_id = any($1) for no key update',
    [old],
  )
  for (const { kid, kek_id, nonce, ciphertext } of rows) {
    const moved = sealer.seal(sealer.open({ kekId: kek_id, nonce, ciphertext }, aadOf(kid)), aadOf(kid))
    await tx.query('update signing_keys set kek_id = $2, nonce = $3, ciphertext = $4 where kid = $1', [
      kid,
      moved.kekId,
      moved.nonce,
      moved.ciphertext,
    ])
  }
  return rows.length
}

const isPublished = ({ publishedUntil }: SigningKey, at: Date): boolean => publishedUntil === undefined || publishedUntil > at

const isOver = (until: Date | undefined, at: Date): boolean =>
  until !== undefined && until.getTime() + CLOCK_SPREAD_MS <= at.getTime()

/** When the successor of the last key is to be there. */
const succeedsAt = (signsFrom: Date, { periodMs }: SigningKeyTerms): number =>
  signsFrom.getTime() + periodMs - Math.min(AHEAD_MS, periodMs / 2)

function isDue(known: readonly SigningKey[], terms: SigningKeyTerms): boolean {
  const last = known.find(({ signsUntil }) => signsUntil === undefined)
  return (
    last === undefined ||
    succeedsAt(last.signsFrom, terms) <= terms.at.getTime() ||
    known.some(({ sealed, signsUntil, publishedUntil }) => isOver(sealed ? signsUntil : publishedUntil, terms.at))
  )
}

/** With the table locked: of several processes that find something due, one does it. */
async function settle(tx: Tx, terms: SigningKeyTerms): Promise<void> {
  const { at, periodMs } = terms
  await tx.query('lock table signing_keys in share row exclusive mode')
  const last = await lastOf(tx)
  if (last === undefined || succeedsAt(last.signs_from, terms) <= at.getTime()) {
    const ahead = at.getTime() + Math.min(AHEAD_MS, periodMs / 2)
    const from = last === undefined ? at : new Date(Math.max(ahead, last.signs_from.getTime() + periodMs))
    await succeed(tx, terms, last, from, 'keyturn')
  }
  const past = new Date(at.getTime() - CLOCK_SPREAD_MS)
  await tx.query('update signing_keys set kek_id = null, nonce = null, ciphertext = null where signs_until <= $1', [past])
  await tx.query('delete from signing_keys where published_until <= $1', [past])
}

const lastOf = (tx: Tx): Promise<SqlSigningKey | undefined> =>
  first<SqlSigningKey>(tx, 'select * from signing_keys where signs_until is null')

async function succeed(
  tx: Tx,
  terms: SigningKeyTerms,
  last: SqlSigningKey | undefined,
  from: Date,
  actor: string,
): Promise<{ kid: string; signsFrom: Date }> {
  if (last !== undefined) await end(tx, last.kid, from)
  return insert(tx, terms, from, actor)
}

/** The next key is published already; it signs earlier than it would have. */
async function hasten(tx: Tx, next: SqlSigningKey, soon: Date): Promise<{ kid: string; signsFrom: Date }> {
  const signsFrom = next.signs_from < soon ? next.signs_from : soon
  const before = await first<{ kid: string }>(tx, 'select kid from signing_keys where signs_until = $1', [next.signs_from])
  if (before !== undefined) await end(tx, before.kid, signsFrom)
  await tx.query('update signing_keys set signs_from = $2 where kid = $1', [next.kid, signsFrom])
  return { kid: next.kid, signsFrom }
}

const end = (tx: Tx, kid: string, until: Date): Promise<unknown> =>
  tx.query('update signing_keys set signs_until = $2, published_until = $3 where kid = $1', [
    kid,
    until,
    new Date(until.getTime() + MOST_SESSION_MS + CLOCK_SPREAD_MS),
  ])

async function insert(
  tx: Tx,
  { sealer, at }: SigningKeyTerms,
  signsFrom: Date,
  actor: string,
): Promise<{ kid: string; signsFrom: Date }> {
  const { x = '', d = '' } = generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
  const kid = await calculateJwkThumbprint({ kty: 'OKP', crv: 'Ed25519', x })
  const { kekId, nonce, ciphertext } = sealer.seal(d, aadOf(kid))
  await tx.query(
    `insert into signing_keys (kid, public_key, kek_id, nonce, ciphertext, created_at, signs_from) values ($1, $2, $3, $4, $5, $6, $7)`,
    [kid, x, kekId, nonce, ciphertext, at, signsFrom],
  )
  await appendAudit(tx, {
    at,
    actor,
    action: 'signing-key.created',
    subject: kid,
    detail: { signsFrom: signsFrom.toISOString() },
  })
  return { kid, signsFrom }
}
