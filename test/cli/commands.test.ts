/** Every command against a running house: what it prints for people, what with --json, and its exit code. */
import { generateKeyPairSync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { RotationId } from '@keyturn/contract'
import getPort from 'get-port'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { startApiServer } from '../../workers/api-server.ts'
import { eventually, type TestCredential } from '../support/house.ts'
import { kafkaClient } from '../support/servers.ts'
import { emptyDirectory, type Office, openOffice, startKeyturn } from './office.ts'

vi.setConfig({ testTimeout: 300_000 })

let office: Office
/** Everything that no command may print. */
const secrets: string[] = []

beforeAll(async () => {
  office = await openOffice({ gateways: 2 })
})
afterAll(async () => {
  await office.close()
})

async function credential(): Promise<TestCredential> {
  const made = await office.house.credential()
  secrets.push(made.token)
  return made
}

async function claimNewKey(rotationId: RotationId): Promise<string> {
  const token = await office.house.claimNewKey(rotationId)
  secrets.push(token)
  return token
}

const WITHIN_MS = 60_000
const QUICK = ['--quiet-period', '0s', '--regret-window', '0s']

/** A rotation that stands in monitoring, started by the command. */
async function monitored(...options: string[]) {
  const made = await credential()
  const { rotationId } = await office.json<{ rotationId: RotationId }>(['rotate', made.credentialId, ...QUICK, ...options])
  await office.house.reached(rotationId, 'monitoring', WITHIN_MS)
  return { ...made, rotationId }
}

const stageOf = async (rotationId: RotationId) => (await office.house.rotation(rotationId)).stage
const ended = (rotationId: RotationId, stage: string) =>
  eventually(async () => (await stageOf(rotationId)) === stage, `${rotationId} ${stage}`, WITHIN_MS)

describe('clients and credentials', () => {
  test('a client is made and shown, with its webhooks', async () => {
    const made = await office.run('client', 'create', '--name', 'Acme Trading', '--webhook', 'http://127.0.0.1:9/hook')
    expect(made).toMatchObject({ code: 0, stderr: '' })
    expect(made.stdout).toMatch(/^cli_\w{16} {2}Acme Trading\nlanguage {5}en\n/)
    expect(made.stdout).toMatch(/\ncon_\w{16} {2}webhook {2}http:\/\/127\.0\.0\.1:9\/hook\n$/)
    const clientId = made.stdout.split(' ')[0] ?? ''
    expect(await office.json(['client', 'show', clientId])).toMatchObject({
      clientId,
      name: 'Acme Trading',
      contacts: [{ channel: 'webhook', url: 'http://127.0.0.1:9/hook' }],
    })
    expect((await office.run('client', 'show', clientId)).stdout).toBe(made.stdout)
  })

  test('the claim of a rotation is printed on standard output, with what to do with it', async () => {
    const { rotationId } = await monitored()
    const shown = await office.run('claim', rotationId, '--reason', 'ticket 4711')
    expect(shown).toMatchObject({ code: 0, stderr: '' })
    const [first = '', claimUrl = '', page = ''] = shown.stdout.split('\n')
    expect([first, page]).toEqual([
      expect.stringMatching(/a POST to it hands out the secret, once, while the rotation runs:$/),
      expect.stringMatching(/^In a browser: .*\/claim#\w{43}$/),
    ])
    expect(await office.json(['claim', rotationId, '--reason', 'again'])).toMatchObject({ rotationId, claimUrl })
    const { token } = (await (await fetch(claimUrl, { method: 'POST' })).json()) as { token: string }
    secrets.push(token)
    expect(office.house.verdicts(token)).toEqual([true, true])
    const used = await office.run('claim', rotationId, '--reason', 'once more')
    expect([used.code, used.stdout, used.stderr]).toEqual([1, '', expect.stringContaining('was handed out at')])
  })

  test('a credential is made; what it prints is the claim, and the claim hands out the secret', async () => {
    const { clientId } = await office.json<{ clientId: string }>(['client', 'create', '--name', 'Acme'])
    const made = await office.run(
      ...['credential', 'create', '--client', clientId, '--name', 'feed', '--environment', 'prod'],
      ...['--scope', 'read:prices,read:depth', '--scope', 'trade:btc'],
    )
    expect(made).toMatchObject({ code: 0, stderr: '' })
    const [first = '', second = '', claimUrl = ''] = made.stdout.split('\n')
    expect(first).toMatch(/^crd_\w{16} {2}key \w{16}$/)
    expect(second).toContain('hands out the secret, once')
    const answer = await fetch(claimUrl, { method: 'POST' })
    const { token } = (await answer.json()) as { token: string }
    secrets.push(token)
    expect(office.house.verdicts(token)).toEqual([true, true])

    const shown = await office.run('credential', 'show', first.split(' ')[0] ?? '')
    expect(shown.code).toBe(0)
    expect(shown.stdout).toContain('scopes      read:prices read:depth trade:btc')
    expect(shown.stdout).toMatch(/^v1 +\w{16} +active +current/m)
  })

  test('a credential whose keys sign: what the client has to do is printed; a public key in a file leaves nothing to do', async () => {
    const { clientId } = await office.json<{ clientId: string }>(['client', 'create', '--name', 'Acme'])
    const create = (name: string, ...more: string[]) =>
      office.run('credential', 'create', '--client', clientId, '--name', name, '--environment', 'prod', '--kind', ...more)
    const directory = emptyDirectory()
    onTestFinished(directory.remove)
    const pair = generateKeyPairSync('ed25519')
    const files = { public: join(directory.path, 'public.pem'), private: join(directory.path, 'private.pem') }
    writeFileSync(files.public, pair.publicKey.export({ type: 'spki', format: 'pem' }))
    writeFileSync(files.private, pair.privateKey.export({ type: 'pkcs8', format: 'pem' }))

    const hmac = await create('hmac', 'hmac-sha256')
    expect([hmac.code, hmac.stdout]).toEqual([0, expect.stringContaining('hands out the token that it signs requests with')])
    const pending = await create('pending', 'ed25519')
    expect([pending.code, pending.stdout]).toEqual([
      0,
      expect.stringContaining('{"publicKey": "…"} to it enrols the public half'),
    ])
    const enrolled = await create('enrolled', 'ed25519', '--public-key', files.public)
    expect([enrolled.code, enrolled.stdout]).toEqual([0, expect.stringMatching(/is enrolled\.\n$/)])
    const shown = await office.run('credential', 'show', enrolled.stdout.split(' ')[0] ?? '')
    expect(shown.stdout).toContain('kind        ed25519')
    const ordered = enrolled.stdout.split(' ')[0] ?? ''
    const updated = await office.run('credential', 'update', ordered, '--sequence', 'required')
    expect([updated.code, updated.stdout]).toEqual([0, expect.stringMatching(/^sequence {4}required$/m)])
    expect((await office.run('credential', 'show', ordered)).stdout).toMatch(/^sequence {4}required$/m)
    expect((await office.run('credential', 'update', ordered, '--sequence', 'none')).stdout).not.toContain('sequence')
    const refused = await create('private', 'ed25519', '--public-key', files.private)
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringMatching(/holds a private key[\s\S]*Nothing was sent/)])
    expect((await create('missing', 'ed25519', '--public-key', join(directory.path, 'none'))).code).toBe(2)
    expect((await create('taken', 'ed25519', '--public-key', files.public)).code).toBe(1)
    expect((await create('rsa', 'rsa')).code).toBe(2)

    const { credentialId } = { credentialId: enrolled.stdout.split(' ')[0] ?? '' }
    const { rotationId } = await office.json<{ rotationId: RotationId }>(['rotate', credentialId, ...QUICK])
    await office.house.reached(rotationId, 'monitoring')
    expect((await office.run('status', rotationId)).stdout).toMatch(/^new key +\w{16} {2}not enrolled yet$/m)
  })

  test('how new keys reach the client is read from a file, and shown; a private key is not sent', async () => {
    const { clientId } = await office.json<{ clientId: string }>(['client', 'create', '--name', 'Acme'])
    const directory = emptyDirectory()
    onTestFinished(directory.remove)
    const file = (name: string, content: object | string): string => {
      const path = join(directory.path, name)
      writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content))
      return path
    }
    const vault = { method: 'vault', address: 'https://vault.example:8200', mount: 'secret', path: 'shop/key', role: 'keyturn' }
    const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    const create = ['credential', 'create', '--client', clientId, '--environment', 'prod', '--name']
    const made = await office.run(...create, 'vault', '--delivery', file('vault.json', { delivery: vault }))
    const credentialId = made.stdout.split(' ')[0] ?? ''
    expect((await office.run('credential', 'show', credentialId)).stdout).toContain(
      'delivery    vault https://vault.example:8200 secret/shop/key',
    )
    const recipient = pair.publicKey.export({ format: 'jwk' })
    const jwe = file('jwe.json', { method: 'jwe', recipient })
    const updated = await office.run('credential', 'update', credentialId, '--delivery', jwe, '--reason', 'agreed')
    expect([updated.code, updated.stdout]).toEqual([0, expect.stringMatching(/changed[\s\S]*^delivery {4}jwe$/m)])
    expect((await office.run('credential', 'show', credentialId)).stdout).toContain(`to the key with x ${recipient.x}`)

    const secret = pair.privateKey.export({ format: 'jwk' })
    const refused = await office.run(
      ...create,
      'private',
      '--delivery',
      file('private.json', { method: 'jwe', recipient: secret }),
    )
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringMatching(/holds a private key[\s\S]*Nothing was sent/)])
    expect((await office.run(...create, 'none', '--delivery', file('none.json', 'vault'))).code).toBe(2)
  })

  test('with --json: the claim, the address, and whether every gateway knows the key', async () => {
    const { clientId } = await office.json<{ clientId: string }>(['client', 'create', '--name', 'Acme'])
    const created = await office.json<Record<string, unknown>>([
      'credential',
      'create',
      '--client',
      clientId,
      '--name',
      'feed',
      '--environment',
      'test',
    ])
    expect(created).toMatchObject({ version: 1, propagated: true, claimUrl: `${office.api}/v1/claims/${created['claim']}` })
    expect(await office.json(['credential', 'show', String(created['credentialId'])])).toMatchObject({
      environment: 'test',
      scopes: [],
      keys: [{ version: 1, state: 'active', standing: 'current' }],
    })
  })
})

describe('a rotation', () => {
  test('rotate prints its id; with --watch each stage as it comes, and exit code 0 when it is completed', async () => {
    const { credentialId } = await credential()
    const watching = office.start('rotate', credentialId, ...QUICK, '--reason', '90 days are over', '--watch')
    await watching.says('monitoring')
    const rotationId = (/^rot_\w{16}/.exec(watching.stdout) ?? [''])[0] as RotationId
    // Live: nothing has ended yet, and nothing has been said of what is still to come.
    expect(await stageOf(rotationId)).toBe('monitoring')
    expect(watching.stdout).not.toContain('deactivating')
    await office.house.use(await claimNewKey(rotationId))
    const { code, stdout, stderr } = await watching.finished
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const steps = ['requested  90 days are over', 'introducing', 'receipt: introduced', 'notifying', 'receipt: deprecated']
    steps.push('monitoring', 'deactivating', 'receipt: deactivated', 'completed')
    const places = steps.map((step) => stdout.indexOf(step))
    expect(places).toEqual([...places].sort((a, b) => a - b))
    expect(places).not.toContain(-1)
    expect(stdout).toMatch(/receipt: introduced \w{16} {2}2 gateways in \d+ ms\n/)
  })

  test('with --json --watch: one JSON object a line', async () => {
    const { credentialId } = await credential()
    const watching = office.start('rotate', credentialId, ...QUICK, '--watch', '--json')
    await watching.says('"monitoring"')
    const { rotationId } = JSON.parse(watching.stdout.split('\n')[0] ?? '') as { rotationId: RotationId }
    await office.house.use(await claimNewKey(rotationId))
    const { code, stdout } = await watching.finished
    expect(code).toBe(0)
    const lines = stdout.trimEnd().split('\n')
    const events = lines.map((line) => JSON.parse(line) as { type: string; rotationId: string; stage?: string })
    expect(events[0]).toMatchObject({ type: 'rotation', rotationId, joined: false, trigger: 'manual' })
    expect(new Set(events.map((event) => event.rotationId))).toEqual(new Set([rotationId]))
    expect(events.at(-1)).toMatchObject({ type: 'stage', stage: 'completed' })
    expect(events.filter(({ type }) => type === 'receipt')).toMatchObject(
      ['introduced', 'deprecated', 'deactivated'].map((what) => ({ event: `keyturn.key.${what}`, unconfirmed: [] })),
    )
  })

  test('a second one joins the first, and says so', async () => {
    const { credentialId, rotationId } = await monitored()
    const again = await office.run('rotate', credentialId)
    expect(again).toEqual({ code: 0, stdout: `${rotationId}  (this rotation was running already)\n`, stderr: '' })
    expect(await office.json(['rotate', credentialId])).toEqual({ rotationId, trigger: 'manual', joined: true })
    expect((await office.run('roll-back', rotationId, '--reason', 'enough')).code).toBe(0)
  })

  test('status --watch of one that is rolled back ends with exit code 1', async () => {
    const { rotationId } = await monitored()
    const watching = office.start('status', rotationId, '--watch')
    await watching.says('monitoring')
    const order = await office.run('roll-back', rotationId, '--reason', 'the client is not ready')
    expect(order).toMatchObject({ code: 0, stderr: '' })
    expect(order.stdout).toMatch(/rolling-back|rolled-back/)
    const { code, stdout } = await watching.finished
    expect(code).toBe(1)
    expect(stdout).toMatch(/rolled-back {2}the client is not ready\n$/)
  })

  test('--watch goes on when the API was away, and says so', async () => {
    const { rotationId } = await monitored()
    const listen = { host: '127.0.0.1', port: await getPort({ host: '127.0.0.1' }) }
    const config = { ...office.house.config, listen }
    let api = await startApiServer(config, office.house.log)
    const env = { KEYTURN_API: api.url, KEYTURN_TOKEN: config.operatorToken }
    const watching = startKeyturn(['status', rotationId, '--watch', '--json'], { env, cwd: tmpdir() })
    await watching.says('"monitoring"')
    await api.stop()
    await watching.notes('The API does not answer at the moment; trying again.')
    api = await startApiServer(config, office.house.log)
    await office.run('roll-back', rotationId, '--reason', 'enough')
    const { code, stdout } = await watching.finished
    await api.stop()
    expect(code).toBe(1)
    const stages = stdout
      .trimEnd()
      .split('\n')
      .flatMap((line) => (JSON.parse(line) as { stage?: string }).stage ?? [])
    expect(stages).toEqual(['requested', 'introducing', 'notifying', 'monitoring', 'rolling-back', 'rolled-back'])
  })

  test('an emergency kills the old key first; with --watch it ends with exit code 0', async () => {
    const { credentialId, token } = await credential()
    const { code, stdout } = await office.run('emergency', credentialId, '--reason', 'found in a repository', '--watch')
    expect(code).toBe(0)
    expect(stdout.indexOf('deactivating')).toBeLessThan(stdout.indexOf('introducing'))
    expect(stdout).toContain('receipt: compromised')
    expect(office.house.verdicts(token)).toEqual([false, false])
  })

  test('status lists rotations, all or by stage and client; and shows one', async () => {
    const { rotationId, credentialId, keyId } = await monitored('--overlap', '5d')
    const { clientId } = await office.house.rotation(rotationId)
    const list = await office.json<{ rotations: { rotationId: string }[] }>(['status', '--client', clientId])
    expect(list.rotations.map((each) => each.rotationId)).toEqual([rotationId])
    expect((await office.json<typeof list>(['status', '--client', clientId, '--stage', 'held'])).rotations).toEqual([])
    const text = (await office.run('status', '--stage', 'monitoring')).stdout
    expect(text).toMatch(/^rotation +stage +trigger +credential +opened\n/)
    expect(text).toMatch(new RegExp(`^${rotationId} +monitoring +manual +${credentialId} +\\d{4}-`, 'm'))
    expect((await office.run('status', '--stage', 'rolling-back')).stdout).toBe('no rotations\n')

    const one = await office.run('status', rotationId)
    expect(one.code).toBe(0)
    for (const expected of [`${rotationId}  monitoring`, `credential  ${credentialId}`, `old key     ${keyId}  last used never`])
      expect(one.stdout).toContain(expected)
    expect(await office.json(['status', rotationId])).toMatchObject({
      rotationId,
      stage: 'monitoring',
      policy: { overlap: '5d' },
    })
    await office.run('roll-back', rotationId, '--reason', 'done')
  })

  test('status says how many programs have switched over, and which', async () => {
    const { credentialId, token } = await credential()
    const useFrom = async (key: string, address: string, userAgent: string): Promise<void> => {
      const headers = { authorization: `Bearer ${key}`, 'user-agent': userAgent }
      for (const gateway of office.house.gateways) await gateway.authenticate({ headers, address })
      await office.house.settleUsage()
    }
    await useFrom(token, '192.0.2.1', 'shop/1')
    await useFrom(token, '198.51.100.1', 'cron/2')
    const { rotationId } = await office.json<{ rotationId: RotationId }>(['rotate', credentialId, '--quiet-period', '1h'])
    await office.house.reached(rotationId, 'monitoring', WITHIN_MS)
    const switchover = async () => (await office.run('status', rotationId)).stdout
    expect(await switchover()).toMatch(/^0 of 2 programs have switched over$/m)
    const newToken = await claimNewKey(rotationId)
    await useFrom(newToken, '192.0.2.1', 'shop/1')
    const text = await switchover()
    expect(text).toMatch(/^1 of 2 programs have switched over/m)
    expect(text).toMatch(/^addresses +moved +old key last +new key first +user agent$/m)
    expect(text).toMatch(/^192\.0\.2\.1 +\d{4}-.*Z +\d{4}-.*Z +\d{4}-.*Z +shop\/1$/m)
    expect(text).toMatch(/^198\.51\.100\.1 +no +\d{4}-.*Z +never +cron\/2$/m)
    await office.run('roll-back', rotationId, '--reason', 'done')
  })
})

describe('orders', () => {
  test('hold, resume, extend', async () => {
    const { rotationId } = await monitored('--overlap', '1h')
    expect((await office.run('hold', rotationId, '--reason', 'a freeze')).stdout).toContain('held  a freeze')
    expect((await office.run('status', rotationId)).stdout).toContain('held (for: operator)')
    expect(await office.json(['resume', rotationId, '--reason', 'thawed'])).toMatchObject({ rotationId })
    await ended(rotationId, 'monitoring')
    const before = (await office.house.rotation(rotationId)).deadline
    const extended = await office.run('extend', rotationId, '--by', '2d', '--reason', 'the client asked')
    expect(extended).toMatchObject({ code: 0, stderr: '' })
    const deadline = new Date(/deadline (\S+)/.exec(extended.stdout)?.[1] ?? '')
    expect(deadline.getTime()).toBe((before?.getTime() ?? 0) + 2 * 86_400_000)
    expect((await office.run('roll-back', rotationId, '--reason', 'done')).code).toBe(0)
    await ended(rotationId, 'rolled-back')
  })

  test('approve lets one that is held at its deadline go on', async () => {
    const { rotationId, token } = await monitored('--overlap', '1s', '--on-deadline', 'hold')
    await office.house.reached(rotationId, 'held', WITHIN_MS)
    const approved = await office.run('approve', rotationId, '--reason', 'the client has said that it is gone')
    expect(approved.code).toBe(0)
    await ended(rotationId, 'completed')
    expect(office.house.verdicts(token)).toEqual([false, false])
  })

  test('deactivate-now does not wait for the evidence', async () => {
    const { rotationId, token } = await monitored()
    expect((await office.run('deactivate-now', rotationId, '--reason', 'we know')).code).toBe(0)
    await ended(rotationId, 'completed')
    expect(office.house.verdicts(token)).toEqual([false, false])
  })

  test('escalate makes it an emergency', async () => {
    const { rotationId, keyId } = await monitored()
    expect(await office.json(['escalate', rotationId, '--reason', 'leaked'])).toMatchObject({ rotationId, trigger: 'emergency' })
    await ended(rotationId, 'completed')
    expect(await office.house.keyState(keyId)).toBe('compromised')
  })

  test('one that does not fit the stage is refused in a sentence, with exit code 1', async () => {
    const { rotationId } = await monitored()
    const refused = await office.run('resume', rotationId, '--reason', 'go on')
    expect(refused).toEqual({
      code: 1,
      stdout: '',
      stderr: 'error: Not at this stage of the rotation\n  only a held rotation can be resumed; this one is monitoring\n',
    })
    expect(await office.json(['approve', rotationId, '--reason', 'go on'], 1)).toMatchObject({
      error: { code: 'wrong-stage', status: 409 },
    })
    await office.run('roll-back', rotationId, '--reason', 'done')
  })
})

describe('gateways and servers', () => {
  test('gateway list shows who is waited for; gone takes one off, on the record', async () => {
    await office.house.announceSilentGateway('gw-lost')
    const listed = await eventually(async () => {
      const { stdout } = await office.run('gateway', 'list')
      return stdout.includes('gw-lost') && stdout
    }, 'gw-lost in the list')
    expect(listed).toMatch(/^gateway +region +state +keys +heard of\n/)
    expect(listed).toMatch(/^gw-1 +test +(fresh|stale)/m)
    const gone = await office.run('gateway', 'gone', 'gw-lost', '--reason', 'the machine is scrap')
    expect(gone).toEqual({ code: 0, stdout: 'gw-lost is declared gone\n', stderr: '' })
    const { gateways } = await office.json<{ gateways: { gatewayId: string }[] }>(['gateway', 'list'])
    expect(gateways.map(({ gatewayId }) => gatewayId).sort()).toEqual(['gw-1', 'gw-2'])
    const audit = await office.run('audit', 'list', '--subject', 'gw-lost')
    expect(audit.stdout).toMatch(/ +operator +gateway-gone +gw-lost +the machine is scrap\n$/)
  })

  test('republish writes every key to the topic again', async () => {
    await credential()
    const ends = async (): Promise<number> => {
      const admin = kafkaClient().admin()
      await admin.connect()
      const offsets = await admin.fetchTopicOffsets(office.house.config.topics.keys)
      await admin.disconnect()
      return offsets.reduce((sum, { high }) => sum + Number(high), 0)
    }
    const [row] = await office.house.db.query<{ count: number }>('select count(*) from keys')
    const keys = row?.count ?? 0
    const before = await ends()
    expect(await office.run('republish')).toEqual({ code: 0, stdout: `${keys} keys published\n`, stderr: '' })
    expect(await ends()).toBe(before + keys)
    expect(await office.json(['republish'])).toEqual({ published: keys })
  })

  test('openapi prints the description of the API', async () => {
    const { code, stdout } = await office.run('openapi')
    expect(code).toBe(0)
    const description = JSON.parse(stdout) as { openapi: string; paths: object }
    expect(description.openapi).toBe('3.1.0')
    expect(Object.keys(description.paths)).toContain('/v1/credentials/{id}/rotations')
    expect(await office.json(['openapi'])).toEqual(description)
  })
})

// Last: it looks at what all of them have printed.
test('G5: no command has printed a secret, and none an escape code', () => {
  const printed = office.printed.join('\n')
  expect(secrets.length).toBeGreaterThan(5)
  for (const secret of [...secrets, office.house.config.operatorToken, office.house.config.kek.toString('base64')])
    expect(printed.includes(secret.slice(-49))).toBe(false)
  expect(printed).not.toContain('\u001b')
})
