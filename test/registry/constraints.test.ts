import { KEY_STATES, KEY_TRANSITIONS, type KeyKind, type KeyState, mayFollow } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { appendAudit } from '../../registry/audit.ts'
import type { Database, Tx } from '../../registry/database.ts'
import { compromiseKey, deactivateKey } from '../../registry/keys.ts'
import { enterStage } from '../../registry/rotations.ts'
import {
  at,
  introduce,
  keyOf,
  makeCredential,
  monitored,
  newRotationId,
  open,
  openTestDatabase,
  refusalOf,
  sealer,
} from './world.ts'

const CHECK = '23514'
const UNIQUE = '23505'
const FORBIDDEN = 'KT001'
const IDENTITY = 'KT002'
const TRANSITION = 'KT003'
const REVISION = 'KT004'
const NOT_AUDITED = 'KT005'
const ENDED = 'KT006'

let db: Database
beforeAll(async () => {
  db = await openTestDatabase()
})
afterAll(() => db.close())

/** Raw SQL with an audit entry beside it, so that nothing but the statement itself can be refused. */
const audited = (keyId: string, revision: number, text: string, values: unknown[]): Promise<string> =>
  refusalOf(
    db.tx(async (tx) => {
      await note(tx, keyId, revision)
      await tx.query(text, values)
    }),
  )

const note = (tx: Tx, keyId: string, revision: number) =>
  appendAudit(tx, { at: at(0), actor: 'sql', action: 'test', subject: keyId, revision })

const setState = (keyId: string, revision: number, state: KeyState): Promise<string> =>
  audited(keyId, revision, `update keys set state = $2, standing = 'retired', revision = $3 where key_id = $1`, [
    keyId,
    state,
    revision,
  ])

/** A copy of a key under another id, with some columns changed. */
const copyKey = (from: string, columns: Record<string, string>): Promise<string> => {
  const keyId = `copy${from.slice(4)}`
  const given: Record<string, string> = {
    key_id: `'${keyId}'`,
    credential_id: 'credential_id',
    version: 'version + 1',
    state: `'active'`,
    standing: `'retired'`,
    revision: '1',
    event: 'event',
    verifier: `jsonb_build_object('kind', 'bearer', 'sha256', encode(sha256(gen_random_uuid()::text::bytea), 'base64'))`,
    not_before: 'not_before',
    created_at: 'created_at',
    ...columns,
  }
  return audited(
    keyId,
    Number(given['revision']),
    `insert into keys (${Object.keys(given).join(', ')}) select ${Object.values(given).join(', ')} from keys where key_id = $1`,
    [from],
  )
}

describe('the table of transitions', () => {
  test('G9: says what the contract says', async () => {
    const rows = await db.query<{ from_state: KeyState; to_state: KeyState }>('select from_state, to_state from key_transitions')
    const stored = rows.map(({ from_state, to_state }) => `${from_state} → ${to_state}`).sort()
    const contract = KEY_STATES.flatMap((from) => KEY_TRANSITIONS[from].map((to) => `${from} → ${to}`)).sort()
    expect(stored).toEqual(contract)
  })

  test('G9: the database lets a key go from each state to those alone that the contract names', async () => {
    const { keyId } = await makeCredential(db)
    const outcomes: Record<string, string> = {}
    const expected: Record<string, string> = {}
    let revision = 1
    for (const from of KEY_STATES) {
      for (const to of KEY_STATES.filter((state) => state !== from)) {
        await db.tx(async (tx) => {
          await tx.query(`set local session_replication_role = replica`)
          await tx.query(`update keys set state = $2, standing = 'retired' where key_id = $1`, [keyId, from])
        })
        const outcome = await setState(keyId, revision + 1, to)
        if (outcome === 'not refused') revision += 1
        outcomes[`${from} → ${to}`] = outcome
        expected[`${from} → ${to}`] = mayFollow(from, to) ? 'not refused' : TRANSITION
      }
    }
    expect(outcomes).toEqual(expected)
  })

  test('G9: a compromised key stays compromised even when the table of transitions is tampered with', async () => {
    const { keyId } = await makeCredential(db)
    await compromiseKey(db, { keyId, at: at(0), actor: 'test', reason: 'leak' })
    await db.query(`insert into key_transitions values ('compromised', 'active')`)
    expect(await setState(keyId, 3, 'active')).toBe(TRANSITION)
    await db.query(`delete from key_transitions where from_state = 'compromised' and to_state = 'active'`)
    expect((await keyOf(db, keyId)).state).toBe('compromised')
  })
})

describe('the database refuses by itself', () => {
  test('a copy of a key that differs in what has to differ is not refused: the cases below fail for their own reason', async () => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, {})).toBe('not refused')
  })

  test('two current keys of a credential', async () => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, { standing: `'current'` })).toBe(UNIQUE)
  })

  test('two successors of a credential', async () => {
    const credential = await makeCredential(db)
    const { keyId } = await introduce(db, await open(db, credential))
    expect(await copyKey(keyId, { standing: `'successor'` })).toBe(UNIQUE)
  })

  test('a version used a second time', async () => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, { version: 'version' })).toBe(UNIQUE)
    expect(await copyKey(keyId, { version: '0' })).toBe(CHECK)
  })

  test('two keys with the same verifier', async () => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, { verifier: 'verifier' })).toBe(UNIQUE)
  })

  test('G5: a verifier that holds anything but a hash', async () => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, { verifier: `verifier || '{"token": "x"}'` })).toBe(CHECK)
    expect(await copyKey(keyId, { verifier: `'{"kind": "bearer", "sha256": "kt_prod_x"}'` })).toBe(CHECK)
    expect(await copyKey(keyId, { verifier: `'{"kind": "bearer"}'` })).toBe(CHECK)
    expect(await copyKey(keyId, { verifier: `'{}'` })).toBe(CHECK)
  })

  const SEALED = { kind: 'hmac-sha256', kekId: '0123abcd', nonce: 'A'.repeat(16), ciphertext: 'A'.repeat(96), revision: 1 }
  const ENROLLED = { kind: 'ed25519', publicKey: `${'A'.repeat(43)}=` }
  const verifier = (value: object): Record<string, string> => ({ verifier: `'${JSON.stringify(value)}'` })

  test.each([
    ['a sealed token', SEALED, { token: 'x' }],
    ['a sealed token', SEALED, { kekId: undefined }],
    ['a sealed token', SEALED, { kekId: 'kt_prod_' }],
    ['a sealed token', SEALED, { kekId: 12345678 }],
    ['a sealed token', SEALED, { nonce: 'A'.repeat(12) }],
    ['a sealed token', SEALED, { ciphertext: 'A'.repeat(20) }],
    ['a sealed token', SEALED, { ciphertext: 'A'.repeat(1_028) }],
    ['a sealed token', SEALED, { ciphertext: 'kt_prod_0123456789abcdef' }],
    ['a sealed token', SEALED, { revision: 2 }],
    ['a sealed token', SEALED, { revision: 0 }],
    ['a sealed token', SEALED, { revision: 0.5 }],
    ['a sealed token', SEALED, { revision: '1' }],
    ['a sealed token', SEALED, { revision: undefined }],
    ['a public key', ENROLLED, { privateKey: ENROLLED.publicKey }],
    ['a public key', ENROLLED, { publicKey: 'A'.repeat(43) }],
    ['a public key', ENROLLED, { publicKey: undefined }],
    ['a kind that there is', ENROLLED, { kind: 'rsa' }],
  ])('G5: a verifier that is %s, %j, but for %j', async (_, good, flaw) => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, verifier({ ...good, ...flaw }))).toBe(CHECK)
  })

  test('what is right of the above is not refused: a sealed token, a public key, a key that has none yet and is not accepted', async () => {
    const { keyId } = await makeCredential(db)
    expect(await copyKey(keyId, verifier(SEALED))).toBe('not refused')
    const other = await makeCredential(db)
    expect(await copyKey(other.keyId, verifier(ENROLLED))).toBe('not refused')
    const third = await makeCredential(db)
    expect(await copyKey(third.keyId, { ...verifier({ kind: 'ed25519' }), state: `'pre-activation'` })).toBe('not refused')
  })

  test('two keys with the same public key, or the same token that is never shown', async () => {
    const publicKey = `${'B'.repeat(42)}A=`
    const { keyId } = await makeCredential(db, 'prod', sealer, { kind: 'ed25519', publicKey })
    expect(await copyKey(keyId, { verifier: 'verifier' })).toBe(UNIQUE)
    const hmac = await makeCredential(db, 'prod', sealer, { kind: 'hmac-sha256' })
    expect(await copyKey(hmac.keyId, { verifier: 'verifier', token_sha256: 'token_sha256' })).toBe(UNIQUE)
    expect(await copyKey(keyId, { token_sha256: `'${'A'.repeat(43)}='` })).toBe(CHECK)
  })

  test('a verifier that changes, but for a public key that is enrolled and a token that is sealed anew', async () => {
    const set = (keyId: string, value: object, more = '', revision = 2): Promise<string> =>
      audited(keyId, revision, `update keys set verifier = $2, revision = $3 ${more} where key_id = $1`, [
        keyId,
        JSON.stringify(value),
        revision,
      ])
    const make = async (kind: KeyKind): Promise<string> => (await makeCredential(db, 'prod', sealer, { kind })).keyId
    const other = (last: string) => ({ ...ENROLLED, publicKey: `${'C'.repeat(41)}${last}A=` })

    const bearer = await make('bearer')
    expect(await set(bearer, { kind: 'bearer', sha256: `${'A'.repeat(43)}=` })).toBe(IDENTITY)
    expect(await set(bearer, SEALED)).toBe(IDENTITY)

    const hmac = await make('hmac-sha256')
    expect(await set(hmac, { ...SEALED, revision: 1 })).toBe(IDENTITY)
    expect(await set(hmac, { ...SEALED, revision: 2 }, `, state = 'suspended'`)).toBe(IDENTITY)
    expect(await set(hmac, ENROLLED)).toBe(IDENTITY)
    expect(await set(hmac, { ...SEALED, revision: 2 }, `, token_sha256 = null`)).toBe(IDENTITY)
    expect(await set(hmac, { ...SEALED, revision: 3 }, '', 3)).toBe(REVISION)
    expect(await set(hmac, { ...SEALED, revision: 2 })).toBe('not refused')

    const ed25519 = await make('ed25519')
    expect(await set(ed25519, other('D'))).toBe(IDENTITY)
    expect(await set(ed25519, { kind: 'ed25519' }, `, state = 'active'`)).toBe(CHECK)
    expect(await set(ed25519, SEALED, `, state = 'active'`)).toBe(IDENTITY)
    expect(await set(ed25519, other('D'), `, state = 'active'`)).toBe('not refused')
    expect(await set(ed25519, other('E'), `, state = 'active'`, 3)).toBe(IDENTITY)
    expect(await set(ed25519, { kind: 'ed25519' }, '', 3)).toBe(IDENTITY)
  })

  test('a key that begins in the middle of its life, or with another revision than 1', async () => {
    const { keyId } = await makeCredential(db)
    for (const state of ['suspended', 'deactivated', 'compromised', 'destroyed']) {
      expect(await copyKey(keyId, { state: `'${state}'` })).toBe(TRANSITION)
    }
    expect(await copyKey(keyId, { revision: '2' })).toBe(REVISION)
  })

  test('a current key or a successor that is not usable', async () => {
    const { keyId } = await makeCredential(db)
    const update = `update keys set state = 'deactivated', revision = 2 where key_id = $1`
    expect(await audited(keyId, 2, update, [keyId])).toBe(CHECK)
  })

  test('a change of what gateways are told, whatever it is, without a revision of its own', async () => {
    const { keyId } = await makeCredential(db)
    const changes = [
      "state = 'suspended'",
      'not_before = now()',
      'expires_at = now()',
      'deprecated_at = now()',
      'permissions = 2',
    ]
    for (const change of changes)
      expect([change, await refusalOf(db.query(`update keys set ${change} where key_id = $1`, [keyId]))]).toEqual([
        change,
        REVISION,
      ])
  })

  test('a change whose revision stays, jumps or goes back', async () => {
    const { keyId } = await makeCredential(db)
    for (const revision of [1, 3, 0]) {
      const update = `update keys set state = 'suspended', revision = $2 where key_id = $1`
      expect(await refusalOf(db.query(update, [keyId, revision]))).toBe(REVISION)
    }
    expect(await refusalOf(db.query('update keys set revision = 2 where key_id = $1', [keyId]))).toBe(REVISION)
  })

  test('G7: a change without an audit entry, or with one that was written in another transaction', async () => {
    const { keyId } = await makeCredential(db)
    const update = `update keys set state = 'suspended', revision = 2 where key_id = $1`
    expect(await refusalOf(db.query(update, [keyId]))).toBe(NOT_AUDITED)
    await db.tx((tx) => note(tx, keyId, 2))
    expect(await refusalOf(db.query(update, [keyId]))).toBe(NOT_AUDITED)
  })

  test('G7: a new key without an audit entry', async () => {
    const { keyId } = await makeCredential(db)
    const insert = `insert into keys (key_id, credential_id, version, state, standing, event, verifier, not_before, created_at)
      select $2, credential_id, 7, 'active', 'retired', event,
        jsonb_build_object('kind', 'bearer', 'sha256', encode(sha256(key_id::bytea), 'base64')), not_before, created_at
      from keys where key_id = $1`
    expect(await refusalOf(db.query(insert, [keyId, `none${keyId.slice(4)}`]))).toBe(NOT_AUDITED)
  })

  test('G7: a second audit entry for one revision of a key', async () => {
    const { keyId } = await makeCredential(db)
    expect(await refusalOf(db.tx((tx) => note(tx, keyId, 1)))).toBe(UNIQUE)
  })

  test('another id, credential, version or verifier for a key', async () => {
    const { keyId } = await makeCredential(db)
    const { credentialId } = await makeCredential(db)
    const changes = [
      `key_id = 'xxxx' || substr(key_id, 5)`,
      `credential_id = '${credentialId}'`,
      'version = 9',
      `verifier = jsonb_build_object('kind', 'bearer', 'sha256', encode(sha256('x'), 'base64'))`,
      `created_at = now()`,
    ]
    for (const change of changes) {
      expect(await audited(keyId, 2, `update keys set ${change}, revision = 2 where key_id = $1`, [keyId])).toBe(IDENTITY)
    }
  })

  test('that more is published than there is', async () => {
    const { keyId } = await makeCredential(db)
    expect(await refusalOf(db.query('update keys set published_revision = 2 where key_id = $1', [keyId]))).toBe(CHECK)
  })

  test('the removal of a key, and other scopes behind its revision', async () => {
    const { keyId, credentialId } = await makeCredential(db)
    expect(await refusalOf(db.query('delete from keys where key_id = $1', [keyId]))).toBe(FORBIDDEN)
    expect(await refusalOf(db.query('truncate keys cascade'))).toBe(FORBIDDEN)
    expect(await refusalOf(db.query('truncate credentials cascade'))).toBe(FORBIDDEN)
    const scopes = `update credentials set scopes = '{admin}' where credential_id = $1`
    expect(await refusalOf(db.query(scopes, [credentialId]))).toBe(FORBIDDEN)
  })

  test('G6: a second open rotation of a credential', async () => {
    const credential = await makeCredential(db)
    const rotationId = await open(db, credential)
    const insert = `insert into rotations (rotation_id, credential_id, client_id, trigger, reason, policy, opened_at)
      select $2, credential_id, client_id, trigger, reason, policy, opened_at from rotations where rotation_id = $1`
    expect(await refusalOf(db.query(insert, [rotationId, newRotationId()]))).toBe(UNIQUE)
    await enterStage(db, { rotationId, stage: 'rolled-back', at: at(1), actor: 'test' })
    expect(await refusalOf(db.query(insert, [rotationId, newRotationId()]))).toBe('not refused')
  })

  test('two new keys of one rotation', async () => {
    const { newKeyId, rotationId } = await monitored(db)
    const copy = copyKey(newKeyId, { standing: `'current'`, rotation_id: `'${rotationId}'`, credential_id: 'credential_id' })
    expect(await copy).toBe(UNIQUE)
  })

  test('a rotation that goes on after its end, or ends without a time', async () => {
    const rotation = await monitored(db)
    await deactivateKey(db, { ...rotation.by, keyId: rotation.keyId, unless: 'never' })
    const end = `update rotations set stage = 'completed' where rotation_id = $1`
    expect(await refusalOf(db.query(end, [rotation.rotationId]))).toBe(CHECK)
    await enterStage(db, { ...rotation.by, stage: 'completed' })
    const reopen = `update rotations set stage = 'monitoring', ended_at = null where rotation_id = $1`
    expect(await refusalOf(db.query(reopen, [rotation.rotationId]))).toBe(ENDED)
    expect(await refusalOf(db.query('delete from rotations where rotation_id = $1', [rotation.rotationId]))).toBe(FORBIDDEN)
  })

  test('G5, G10: a claim that is not open and still holds a secret', async () => {
    const { claimId } = await makeCredential(db)
    for (const state of ['used', 'expired', 'destroyed']) {
      const update = 'update claims set state = $2, ended_at = now() where claim_id = $1'
      expect(await refusalOf(db.query(update, [claimId, state]))).toBe(CHECK)
    }
    const empty = `update claims set ciphertext = null where claim_id = $1`
    expect(await refusalOf(db.query(empty, [claimId]))).toBe(CHECK)
  })

  test('G5, G10: an answer to a recipient beside the sealed secret, without a recipient, without an end, or that is none', async () => {
    const { claimId } = await makeCredential(db)
    const JWE = `e30..${'A'.repeat(16)}.AAAA.${'A'.repeat(22)}`
    const recipient = 'A'.repeat(43)
    const set = (columns: string, ...values: unknown[]) =>
      refusalOf(db.query(`update claims set ${columns} where claim_id = $1`, [claimId, ...values]))
    expect(await set('recipient = $2, jwe = $3, repeatable_until = now()', recipient, JWE)).toBe(CHECK)
    expect(await set(`state = 'used', ended_at = now(), kek_id = null, nonce = null, ciphertext = null`)).toBe('not refused')
    expect(await set('jwe = $2, repeatable_until = now()', JWE)).toBe(CHECK)
    expect(await set('recipient = $2, jwe = $3', recipient, JWE)).toBe(CHECK)
    expect(await set('recipient = $2, jwe = $3, repeatable_until = now()', 'A'.repeat(42), JWE)).toBe(CHECK)
    for (const none of ['kt_prod_token', JWE.replace('..', '.AAAA.'), `${JWE}.`])
      expect(await set('recipient = $2, jwe = $3, repeatable_until = now()', recipient, none)).toBe(CHECK)
    expect(await set('recipient = $2, jwe = $3, repeatable_until = now()', recipient, JWE)).toBe('not refused')
  })

  test('G5, G10: a delivery with a private key, of a key that the client makes, or with what belongs to none; done and not used', async () => {
    const { credentialId, claimId } = await makeCredential(db)
    const set = (delivery: object, of = credentialId) =>
      refusalOf(db.query('update credentials set delivery = $2 where credential_id = $1', [of, delivery]))
    const recipient = { kty: 'EC', crv: 'P-256', x: 'A'.repeat(43), y: 'A'.repeat(43) }
    const vault = { method: 'vault', address: 'https://vault.example', mount: 'secret', path: 'x', role: 'x' }
    expect(await set({ method: 'jwe', recipient })).toBe('not refused')
    expect(await set(vault)).toBe('not refused')
    for (const none of [
      { method: 'jwe', recipient: { ...recipient, d: 'A'.repeat(43) } },
      { method: 'jwe', recipient: { ...recipient, x: 'A' } },
      { method: 'jwe' },
      { ...vault, token: 'x' },
      { method: 'mail' },
      {},
    ])
      expect([none, await set(none)]).toEqual([none, CHECK])
    const signing = await makeCredential(db, 'prod', sealer, { kind: 'ed25519' })
    expect(await set(vault, signing.credentialId)).toBe(CHECK)
    const done = `update claims set delivery = 'done' where claim_id = $1`
    expect(await refusalOf(db.query(done, [claimId]))).toBe(CHECK)
  })

  test('names that are too long', async () => {
    const insert = `insert into clients (client_id, name, created_at) values ('cli_aaaaaaaaaaaaaaaa', repeat('x', 201), now())`
    expect(await refusalOf(db.query(insert))).toBe(CHECK)
    const { credentialId } = await makeCredential(db)
    const long = `insert into credentials (credential_id, client_id, name, environment, scopes, created_at)
      select 'crd_aaaaaaaaaaaaaaaa', client_id, repeat('x', 101), environment, scopes, created_at from credentials where credential_id = $1`
    expect(await refusalOf(db.query(long, [credentialId]))).toBe(CHECK)
  })
})
