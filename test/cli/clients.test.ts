/** How clients are told, changed and shown on the command line. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { NOTIFICATION_KINDS } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { emptyDirectory, type Office, openOffice, runKeyturn } from './office.ts'

vi.setConfig({ testTimeout: 300_000 })

let office: Office
beforeAll(async () => {
  office = await openOffice({ gateways: 1 })
})
afterAll(async () => {
  await office.close()
})

interface Shown {
  readonly clientId: string
  readonly contacts: readonly { readonly contactId: string; readonly channel: string }[]
}

const create = async (...more: string[]): Promise<string> =>
  (await office.json<Shown>(['client', 'create', '--name', 'Acme', ...more])).clientId
const show = (clientId: string) => office.json<Shown>(['client', 'show', clientId])
const HOOK = 'http://127.0.0.1:9/hook'
const MAIL = 'ops@acme.example'

describe('client update', () => {
  test('changes what is given, leaves the rest, and says what has changed', async () => {
    const clientId = await create('--webhook', HOOK)
    const changed = await office.run(
      ...['client', 'update', clientId, '--language', 'de', '--time-zone', 'Europe/Berlin'],
      ...['--quiet-hours', '22:00-07:00', '--tell', 'all'],
    )
    expect(changed).toEqual({
      code: 0,
      stdout: `${clientId}  changed\nlanguage: en → de\ntimeZone: UTC → Europe/Berlin\nquietHours: none → 22:00-07:00\ntell: first → all\n`,
      stderr: '',
    })
    const text = (await office.run('client', 'show', clientId)).stdout
    for (const line of ['language     de', 'time zone    Europe/Berlin', 'quiet hours  22:00-07:00', 'tell         all'])
      expect(text).toContain(`${line}\n`)
    expect(text).toMatch(/^con_\w{16} {2}webhook {2}http:\/\/127\.0\.0\.1:9\/hook$/m)
    expect((await office.run('client', 'update', clientId, '--no-quiet-hours', '--name', 'Acme Ltd')).stdout).toBe(
      `${clientId}  changed\nname: Acme → Acme Ltd\nquietHours: 22:00-07:00 → none\n`,
    )
    expect((await office.run('client', 'update', clientId, '--language', 'de')).stdout).toBe(`${clientId}  as it was\n`)
    expect(await show(clientId)).toMatchObject({ name: 'Acme Ltd', language: 'de', contacts: [{ url: HOOK }] })
  })

  test('--dry-run shows it, and changes nothing', async () => {
    const clientId = await create()
    const before = await show(clientId)
    const shown = await office.run('client', 'update', clientId, '--language', 'de', '--dry-run')
    expect(shown.stdout).toBe('Nothing was changed; it would be:\nlanguage: en → de\n')
    expect(await office.json(['client', 'contacts', 'add', clientId, '--email', MAIL, '--dry-run'])).toEqual({
      dryRun: true,
      clientId,
      change: { contacts: [{ channel: 'email', address: MAIL }] },
    })
    expect(await show(clientId)).toEqual(before)
  })

  test('what can not be is said in a sentence: exit code 2 for what was typed, 1 for a client that is not there', async () => {
    const clientId = await create()
    for (const [args, message] of [
      [[], 'What is to change?'],
      [['--language', 'fr'], 'Allowed choices are en, de'],
      [['--quiet-hours', '22-7'], 'Give a span like 22:00-07:00.'],
      [['--quiet-hours', '07:00-07:00'], 'is when they begin'],
      [['--time-zone', 'Mars/Olympus'], 'timeZone: is not a time zone like Europe/Berlin'],
      [['--tell', 'nobody'], 'Allowed choices are first, all'],
    ] as const) {
      const { code, stderr } = await office.run('client', 'update', clientId, ...args)
      expect([code, stderr]).toEqual([2, expect.stringContaining(message)])
    }
    const nobody = await office.run('client', 'update', 'cli_0000000000000000', '--language', 'de')
    expect([nobody.code, nobody.stderr]).toEqual([1, expect.stringContaining('There is no client cli_0000000000000000')])
  })
})

describe('client contacts', () => {
  test('one is added, at the end or as the first; one is removed by its address or its id', async () => {
    const clientId = await create('--webhook', HOOK)
    const contacts = (...args: string[]) => office.run('client', 'contacts', ...args)
    expect((await contacts('add', clientId, '--email', MAIL)).stdout).toBe(
      `${clientId}  changed\n= webhook  ${HOOK}\n+ email  ${MAIL}\n`,
    )
    const slack = 'https://hooks.slack.example/x'
    expect((await contacts('add', clientId, '--slack', slack, '--first')).code).toBe(0)
    const listed = (await contacts('list', clientId)).stdout
    expect(listed).toMatch(/^contact +channel +address\ncon_\w{16} +slack .*\ncon_\w{16} +webhook .*\ncon_\w{16} +email +ops@/)
    const [, hook] = (await show(clientId)).contacts
    expect((await contacts('remove', clientId, hook?.contactId ?? '')).stdout).toContain(`- webhook  ${HOOK}\n`)
    expect((await contacts('remove', clientId, MAIL)).code).toBe(0)
    expect((await show(clientId)).contacts.map(({ channel }) => channel)).toEqual(['slack'])
    const again = await contacts('remove', clientId, MAIL)
    expect([again.code, again.stderr]).toEqual([2, expect.stringContaining('has no such contact')])
    for (const wrong of [[], ['--email', MAIL, '--slack', slack]])
      expect((await contacts('add', clientId, ...wrong)).stderr).toContain('Give one of --email, --webhook, --slack')
    const refused = await contacts('add', clientId, '--email', 'Ops <ops@acme.example>')
    expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('contacts.1.address: is not an e-mail address')])
  })

  test('all are set from a file or from standard input, as a list, or as what `client show --json` prints', async () => {
    const directory = emptyDirectory()
    onTestFinished(directory.remove)
    const file = join(directory.path, 'contacts.json')
    const clientId = await create('--webhook', HOOK)
    writeFileSync(file, JSON.stringify([{ channel: 'email', address: MAIL }]))
    const set = await office.run('client', 'contacts', 'set', clientId, file)
    expect(set.stdout).toBe(`${clientId}  changed\n+ email  ${MAIL}\n- webhook  ${HOOK}\n`)
    await office.run('client', 'update', clientId, '--language', 'de')

    const other = await create()
    const whole = JSON.stringify(await show(clientId))
    expect((await office.runWith(whole, 'client', 'contacts', 'set', other)).code).toBe(0)
    expect(await show(other)).toMatchObject({
      name: 'Acme',
      language: 'de',
      contacts: [{ channel: 'email', address: MAIL }],
    })
    expect((await office.runWith('[]', 'client', 'contacts', 'set', other, '-')).stdout).toContain(`- email  ${MAIL}`)
    expect((await office.run('client', 'contacts', 'list', other)).stdout).toBe('no contacts\n')
  })

  test('a file that is none changes nothing', async () => {
    const clientId = await create('--webhook', HOOK)
    for (const [input, message] of [
      ['nonsense', 'standard input is not JSON; nothing was changed'],
      ['{"language": "de"}', 'standard input holds no contacts; nothing was changed'],
      ['[{"channel": "fax", "address": "1"}]', 'holds no contacts'],
      ['[{"channel": "email"}]', 'contacts.0.address: is missing'],
      ['[{"channel": "webhook", "url": "http://192.0.2.1/"}]', 'contacts.0.url: '],
    ] as const) {
      const { code, stderr } = await office.runWith(input, 'client', 'contacts', 'set', clientId)
      expect([code, stderr]).toEqual([2, expect.stringContaining(message)])
    }
    const missing = await office.run('client', 'contacts', 'set', clientId, '/nowhere/contacts.json')
    expect([missing.code, missing.stderr]).toEqual([2, expect.stringContaining('can not be read (ENOENT)')])
    expect((await show(clientId)).contacts).toMatchObject([{ url: HOOK }])
  })
})

describe('notify preview', () => {
  // It needs neither a server nor a setting.
  const preview = async (...args: string[]) => {
    const directory = emptyDirectory()
    onTestFinished(directory.remove)
    return runKeyturn(['notify', 'preview', ...args], { cwd: directory.path })
  }

  test.each(NOTIFICATION_KINDS)('%s: as an e-mail, in both languages, without a claim', async (message) => {
    const [english, german] = await Promise.all([
      preview('--message', message),
      preview('--message', message, '--language', 'de', '--time-zone', 'Europe/Berlin'),
    ])
    for (const { code, stdout, stderr } of [english, german]) {
      expect([code, stderr]).toEqual([0, ''])
      expect(stdout).toMatch(/^Subject: \S.*\n\n\S/)
      expect(stdout).not.toMatch(/\{\w*\}|undefined|\/v1\/claims\/|\/claim#/)
    }
    expect(german.stdout).not.toBe(english.stdout)
  })

  test('as a webhook, for Slack, and as HTML', async () => {
    const [webhook, slack, html] = await Promise.all([
      preview('--message', 'introduced', '--channel', 'webhook', '--json'),
      preview('--message', 'introduced', '--channel', 'slack', '--json'),
      preview('--message', 'introduced', '--html'),
    ])
    expect(JSON.parse(webhook.stdout)).toMatchObject({ type: 'keyturn.rotation.introduced', data: expect.any(Object) })
    expect(JSON.parse(slack.stdout)).toMatchObject({ text: expect.any(String) })
    expect(html.stdout).toMatch(/^<!doctype html>/i)
  })

  test('a message, a language, a zone or a field that there is not is said, with those that there are', async () => {
    const directory = emptyDirectory()
    onTestFinished(directory.remove)
    const messages = join(directory.path, 'messages.yaml')
    writeFileSync(messages, 'en: { introduced: { lead: "Your key of {cleint} is there" } }')
    const [message, language, zone, field] = await Promise.all([
      preview('--message', 'farewell'),
      preview('--message', 'introduced', '--language', 'fr'),
      preview('--message', 'introduced', '--time-zone', 'Mars/Olympus'),
      preview('--message', 'introduced', '--messages', messages),
    ])
    expect([message.code, message.stderr]).toEqual([2, expect.stringContaining('Allowed choices are introduced, reminder')])
    expect([language.code, language.stderr]).toEqual([2, expect.stringContaining('Allowed choices are en, de')])
    expect([zone.code, zone.stderr]).toEqual([2, expect.stringContaining('Mars/Olympus is no time zone')])
    expect([field.code, field.stderr]).toEqual([1, expect.stringMatching(/en\.introduced\.lead: .*cleint/)])
  })
})
