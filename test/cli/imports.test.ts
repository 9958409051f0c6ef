/** `keyturn import`: keys that a provider issued before Keyturn. `npm run test:long` imports 100,000. */
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ALPHABET_NAMES, type CredentialId, IMPORT_FIELDS } from '@keyturn/contract'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { verifyAudit } from '../../registry/audit.ts'
import { keysOfCredential } from '../../registry/keys.ts'
import { readTables } from '../integration/places.ts'
import { eventually } from '../support/house.ts'
import { type Office, openOffice } from './office.ts'

const LONG = process.env['KEYTURN_TEST_LONG'] !== undefined
const MANY = LONG ? 100_000 : 1_500
vi.setConfig({ testTimeout: LONG ? 30 * 60_000 : 240_000 })

interface Imported {
  readonly rows: number
  readonly imported: number
  readonly there: number
  readonly newClients: number
}

let office: Office
const directory = mkdtempSync(join(tmpdir(), 'keyturn-import-'))
const tokens: string[] = []
beforeAll(async () => {
  office = await openOffice({ gateways: 2 })
})
afterAll(async () => {
  await office.close()
  rmSync(directory, { recursive: true })
})

/** As another provider makes them. */
const foreignToken = (): string => {
  const token = `sk_live_${randomBytes(24).toString('base64url')}`
  tokens.push(token)
  return token
}
const sha256 = (token: string): string => createHash('sha256').update(token).digest('hex')
const file = (name: string, ...lines: string[]): string => {
  const path = join(directory, name)
  writeFileSync(path, lines.join('\n'))
  return path
}
const HEADER = 'sha256,client,name,environment,scopes,bits'
const line = (name: string, { token = foreignToken(), client = 'Acme', bits = '192', scopes = 'read:prices' } = {}): string =>
  [sha256(token), client, name, 'prod', scopes, bits].join(',')
/** As whoever has imported keys finds them. */
const credentialOf = async (client: string, name: string): Promise<CredentialId> => {
  const list = await office.json<{ credentials: { credentialId: CredentialId; name: string }[] }>([
    ...['credential', 'list', '--client', client],
  ])
  expect(list.credentials.map((each) => each.name)).toEqual([name])
  return list.credentials[0]?.credentialId ?? ('' as CredentialId)
}
const credentials = async () => (await office.house.db.query<{ n: number }>('select count(*) as n from credentials'))[0]?.n

test('G1, G3, G5: a token of tokens alone, hashed here and imported, works at once, and rotates like any other', async () => {
  const { house } = office
  const token = foreignToken()
  const source = `\uFEFFtoken,client,name,environment,scopes,createdAt\r\n${token},"Acme, Inc.",old feed,prod,"read:prices,read:depth",2024-02-29\r\n`
  const hashed = await office.runWith(source, 'import', 'hash')
  expect(hashed).toMatchObject({ code: 0, stderr: '' })
  expect(hashed.stdout).toMatch(
    /^sha256,length,alphabet,client,name,environment,scopes,createdAt\n[A-Za-z0-9+/]{43}=,\d\d,base6[24],"Acme, Inc."/,
  )
  const path = file('hashed.csv', hashed.stdout)
  expect(house.verdicts(token)).toEqual([false, false])

  const dry = await office.run('import', path, '--dry-run')
  expect(dry).toMatchObject({
    code: 0,
    stdout: `file     ${path}: 1 key\nnew      1\nclients  1 that there are none of yet are made\nNothing was done.\n`,
  })
  const unasked = await office.run('import', path)
  expect(unasked).toMatchObject({ code: 2, stderr: expect.stringContaining('Add --yes') })
  expect(await credentials()).toBe(0)
  expect(await office.json<Imported>(['import', path, '--yes'])).toEqual({ rows: 1, imported: 1, there: 0, newClients: 1 })
  await eventually(() => house.verdicts(token).every((accepted) => accepted), 'the imported key at every gateway')

  const credentialId = await credentialOf('Acme, Inc.', 'old feed')
  const [old] = await keysOfCredential(house.db, credentialId)
  expect(old).toMatchObject({ version: 1, state: 'active', scopes: ['read:prices', 'read:depth'] })
  expect(old?.createdAt.toISOString()).toBe('2024-02-29T00:00:00.000Z')
  const rotation = await house.rotate(credentialId, { quietPeriodMs: 0, regretWindowMs: 0, successorByOldKey: true })
  await house.reached(rotation.rotationId, 'monitoring')
  // The client fetches its new key by showing the old one, in the provider's format.
  const answer = await fetch(`${office.api}/v1/successor`, { method: 'POST', headers: { authorization: `Bearer ${token}` } })
  const { token: successor } = (await answer.json()) as { token: string }
  tokens.push(successor)
  expect(successor).toMatch(/^kt_prod_/)
  expect([...house.verdicts(token), ...house.verdicts(successor)]).toEqual([true, true, true, true])
  await house.use(successor)
  await house.reached(rotation.rotationId, 'completed', 60_000)
  expect([...house.verdicts(token), ...house.verdicts(successor)]).toEqual([false, false, true, true])
})

test('the help names every field of a row, and every alphabet', async () => {
  const { code, stdout } = await office.run('import', '--help')
  const missing = [...IMPORT_FIELDS, ...ALPHABET_NAMES].filter((word) => !new RegExp(`\\b${word}\\b`).test(stdout))
  expect([code, missing]).toEqual([0, []])
})

test('every line that can not be used is named, none is repeated, and nothing is done', async () => {
  const token = foreignToken()
  const before = await credentials()
  const twin = line('twin')
  const path = file(
    'bad.csv',
    HEADER,
    line('good'),
    [token, 'Acme', 'a token', 'prod', 'read:prices', '192'].join(','),
    twin,
    twin,
    line('good'),
    line('weak', { bits: '64' }),
    line('unsaid', { bits: '' }),
    line('scope', { scopes: 'Trade' }),
    line('feed').replace('prod', 'production'),
    `${line('more')},2030-02-30`,
  )
  const { code, stdout, stderr } = await office.run('import', path, '--yes')
  expect([code, stdout]).toEqual([2, ''])
  const lines = stderr
    .trim()
    .split('\n')
    .map((text) => text.trim().replace(path, 'file'))
  expect(lines).toEqual([
    expect.stringContaining('8 of the lines of file can not be used; nothing was done'),
    expect.stringMatching(/^file:3: sha256: not a SHA-256 digest/),
    'file:5: sha256: the same key as in line 4',
    'file:6: name: the same credential as in line 2, with another key',
    'file:7: a token of at most 64 bits, fewer than 128; --accept-weak imports it all the same',
    expect.stringMatching(/^file:8: nothing says how strong the token is.*--accept-weak/),
    'file:9: scopes: number 1 is not a scope like trade:orders',
    'file:10: environment: must be one of dev, test, prod',
    'file:11: has 7 fields, where the first line names 6',
  ])
  expect(await credentials()).toBe(before)

  const refused = async (name: string, ...content: string[]) => {
    const finished = await office.run('import', file(name, ...content), '--yes')
    expect(finished.stdout).toBe('')
    return finished.stderr
  }
  expect(await refused('tokens.csv', 'token,client', `${token},Acme`)).toContain(':1: holds tokens: `keyturn import hash`')
  expect(await refused('other.csv', `${HEADER},secret`, `${line('x')},y`)).toContain(
    ':1: column 7 has a name that is none of sha256',
  )
  expect(await refused('headless.csv', `${token},Acme`)).toMatch(/:1: column 1 has a name/)
  expect(await refused('empty.csv')).toContain('holds no keys')
  expect(await refused('only-names.csv', HEADER)).toContain('holds no keys')
  expect((await office.run('import', join(directory, 'nowhere.csv'))).stderr).toContain('can not be read (ENOENT)')
  expect(await office.runWith(`token,name\n${token},a ${token}\n`, 'import', 'hash')).toMatchObject({ code: 2, stdout: '' })
  const weak = file('weak.csv', HEADER, line('weak', { bits: '64' }))
  expect(await office.json<Imported>(['import', weak, '--accept-weak', '--yes'])).toMatchObject({ imported: 1 })
  expect(await credentials()).toBe((before ?? 0) + 1)
})

test('what the registry has against a line is said in the dry run, by its number', async () => {
  const taken = foreignToken()
  expect(
    await office.json<Imported>(['import', file('first.csv', HEADER, line('taken', { token: taken })), '--yes']),
  ).toMatchObject({ imported: 1 })
  await office.json(['client', 'create', '--name', 'Twice'])
  await office.json(['client', 'create', '--name', 'Twice'])
  const before = await credentials()
  const path = file(
    'refused.csv',
    HEADER,
    line('fine'),
    line('elsewhere', { token: taken }),
    line('taken'),
    line('ambiguous', { client: 'Twice' }),
    line('nobody', { client: 'cli_0000000000000000' }),
  )
  const { code, stderr } = await office.run('import', path, '--dry-run')
  expect(code).toBe(2)
  expect(
    stderr
      .replaceAll(path, 'file')
      .split('\n')
      .slice(1)
      .map((text) => text.trim()),
  ).toEqual([
    'file:3: sha256: this key is in the registry already, as that of another credential',
    'file:4: name: the client has a credential of this name there already, with another key',
    'file:5: client: several clients have this name; give the id',
    'file:6: client: there is none of this id',
    '',
  ])
  expect(await credentials()).toBe(before)
})

test(`G4, G7: ${MANY} keys: stopped in the middle, and gone on with by the same command; each audited once, each at the gateways`, async () => {
  const { house } = office
  const before = (await credentials()) ?? 0
  const made = Array.from({ length: MANY }, (_, i) => ({ token: foreignToken(), name: `bulk ${i}`, client: `Client ${i % 100}` }))
  const path = file('many.csv', HEADER, ...made.map(({ name, ...more }) => line(name, more)))
  const cutOff = office.start('import', path, '--yes')
  await eventually(async () => ((await credentials()) ?? 0) > before, 'the first batch', 600_000)
  cutOff.kill()
  await cutOff.finished

  const began = performance.now()
  const result = await office.json<Imported>(['import', path, '--yes'])
  const seconds = (performance.now() - began) / 1_000
  if (LONG) process.stdout.write(`${result.imported} keys imported in ${seconds.toFixed(1)} s\n`)
  expect(result.imported + result.there).toBe(MANY)
  expect(await office.json<Imported>(['import', path, '--yes'])).toMatchObject({ imported: 0, there: MANY })

  await eventually(
    async () => (await house.db.query('select from keys where published_revision < revision limit 1')).length === 0,
    'everything published',
    600_000,
  )
  for (const { token } of made.filter((_, i) => i % Math.ceil(MANY / 100) === 0))
    await eventually(() => house.verdicts(token).every((accepted) => accepted), 'an imported key at every gateway', 600_000)
  const [entries] = await house.db.query<{ n: number; subjects: number }>(
    `select count(*) as n, count(distinct a.subject) as subjects from audit a join keys k on k.key_id = a.subject join credentials c using (credential_id)
     where c.name like 'bulk %' and a.action = 'key.introduced'`,
  )
  expect(entries).toEqual({ n: MANY, subjects: MANY })
  expect(await verifyAudit(house.db)).toMatchObject({ ok: true })
})

test('G5: no token was in what the commands said, nor is one in a table', async () => {
  expect(office.printed.length).toBeGreaterThan(10)
  const said = office.printed.join('\n')
  expect(tokens.filter((token) => said.includes(token))).toEqual([])
  const some = tokens.slice(0, 20)
  const tables = await readTables(office.house.db)
  expect(tables.length).toBeGreaterThan(MANY)
  expect(tables.filter(({ bytes }) => some.some((token) => bytes.includes(token))).map(({ place }) => place)).toEqual([])
})
