/** What goes wrong is said in a sentence, with what to do; exit code 1 when it failed, 2 when it was called in a way that can't work. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import getPort from 'get-port'
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest'
import { COMMAND, emptyDirectory, type Office, openOffice, runKeyturn } from './office.ts'

vi.setConfig({ testTimeout: 300_000 })

let office: Office
let nowhere = ''
beforeAll(async () => {
  office = await openOffice({ gateways: 0, worker: false, collector: false })
  nowhere = `127.0.0.1:${await getPort({ host: '127.0.0.1' })}`
})
const rooms: ReturnType<typeof emptyDirectory>[] = []
afterAll(async () => {
  await office.close()
  for (const room of rooms) room.remove()
})

function room(files: Readonly<Record<string, string>> = {}): string {
  const directory = emptyDirectory()
  rooms.push(directory)
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(directory.path, path, '..'), { recursive: true })
    writeFileSync(join(directory.path, path), text)
  }
  return directory.path
}

/** Runs and expects it to fail, with nothing on standard output. @returns what it says */
async function failing(
  code: 1 | 2,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  cwd = room(),
): Promise<string> {
  const finished = await runKeyturn(args, { env, cwd })
  expect(finished).toMatchObject({ code, stdout: '' })
  expect(finished.stderr).not.toContain('\u001b')
  return finished.stderr
}

const here = (more: Readonly<Record<string, string>> = {}) => ({ ...office.env, ...more })

describe('called in a way that can not work: exit code 2', () => {
  const OVERLAP = "option '--overlap <duration>' argument"
  test.each([
    [['bogus'], "error: unknown command 'bogus'", 'keyturn'],
    [['rotat', 'x'], "error: unknown command 'rotat'\n(Did you mean rotate?)", 'keyturn'],
    [['status', '--bogus'], "error: unknown option '--bogus'", 'keyturn status'],
    [['rotate'], "error: missing required argument 'credential'", 'keyturn rotate'],
    [['emergency', 'crd_x'], "error: required option '--reason <text>' not specified", 'keyturn emergency'],
    [
      ['rotate', 'crd_x', '--overlap', 'soon'],
      `error: ${OVERLAP} 'soon' is invalid. "soon" is not a duration: write 14d, 1h30m, 90s or ISO 8601 like P14D, PT90S.`,
      'keyturn rotate',
    ],
    [
      ['credential', 'create', '--client', 'c', '--name', 'n', '--environment', 'production'],
      "error: option '--environment <environment>' argument 'production' is invalid. Allowed choices are dev, test, prod.",
      'keyturn credential create',
    ],
    [
      ['audit', 'list', '--limit', 'many'],
      "error: option '--limit <count>' argument 'many' is invalid. Give a whole number.",
      'keyturn audit list',
    ],
  ])('%j', async (args, sentence, command) => {
    expect(await failing(2, args, here())).toBe(`${sentence}\nSee \`${command} --help\`.\n`)
  })

  test.each([
    [['status', '--watch'], '--watch needs a rotation\n  `keyturn status` lists them.'],
    [
      ['status', 'rot_x', '--stage', 'held'],
      '--stage and --client choose from the list\n  Leave them out to look at one rotation.',
    ],
    [['status', 'nonsense'], 'The request does not fit the schema\n  id: does not look right; expected a rotation id: rot_…'],
    [
      ['client', 'create', '--name', ' Acme '],
      'The request does not fit the schema\n  name: does not look right; expected a name of 1 to 100 printable characters without spaces around it',
    ],
    [
      ['rotate', 'crd_0123456789abcdef', '--overlap', '2h', '--quiet-period', '3h'],
      'Not a usable duration\n  quietPeriod: must not be longer than the overlap of 2h: the old key could never be quiet long enough',
    ],
  ])('%j', async (args, sentence) => {
    expect(await failing(2, args, here())).toBe(`error: ${sentence}\n`)
  })

  test.each(['localhost:8080', 'http://[::1', 'http://me:hunter2@127.0.0.1'])('KEYTURN_API=%s', async (api) => {
    const said = await failing(2, ['status'], { KEYTURN_API: api, KEYTURN_TOKEN: 'x' })
    expect(said).toBe('error: KEYTURN_API is not a usable address\n  It looks like http://127.0.0.1:8080.\n')
  })

  test('a token that can not be sent is not printed either', async () => {
    const said = await failing(2, ['status'], { KEYTURN_API: office.api, KEYTURN_TOKEN: 'two words\n' })
    expect(said).toBe('error: KEYTURN_TOKEN is not a usable token\n  It has letters, digits and signs, and no spaces.\n')
  })

  test('without an address, or a token for it, it says what to set', async () => {
    expect(await failing(2, ['status'], {})).toBe(
      'error: Where is the API?\n  Set KEYTURN_API and KEYTURN_TOKEN, or run `npm start` and come back here.\n',
    )
    expect(await failing(2, ['status'], { KEYTURN_API: office.api })).toBe(
      'error: An operator token is required\n  Set KEYTURN_TOKEN beside KEYTURN_API.\n',
    )
  })

  test('commands that go to the servers themselves name each variable that is missing or wrong', async () => {
    expect(await failing(2, ['audit', 'verify'], {})).toMatch(
      /^error: The configuration is not usable:\n {2}KEYTURN_POSTGRES_URL: not set; expected the registry: .*\n {2}Or run `npm start` and come back here\.\n$/,
    )
    const wrong = { KEYTURN_POSTGRES_URL: 'mysql://me:hunter2@db', KEYTURN_KAFKA_BROKERS: 'kafka' }
    const said = await failing(2, ['republish'], wrong)
    expect(said).toContain('KEYTURN_POSTGRES_URL: not usable')
    expect(said).toContain('KEYTURN_KAFKA_BROKERS: not usable')
    expect(said).not.toContain('hunter2')
  })

  test('without a command it shows what there is', async () => {
    expect(await failing(2, [], {})).toContain('Commands:')
  })
})

describe('failed: exit code 1', () => {
  test('the API is not there', async () => {
    const away = { KEYTURN_API: `http://${nowhere}`, KEYTURN_TOKEN: 'x' }
    const sentence = `error: The API at ${nowhere} does not answer\n  Is it running? (ECONNREFUSED) KEYTURN_API says where it is.\n`
    expect(await failing(1, ['status'], away)).toBe(sentence)
    expect(await failing(1, ['status', 'rot_0123456789abcdef', '--watch'], away)).toBe(sentence)
  })

  test('the token is wrong', async () => {
    const said = await failing(1, ['gateway', 'list'], here({ KEYTURN_TOKEN: 'hunter2hunter2hunter2' }))
    expect(said).toBe('error: An operator token is required\n  The API does not take this token. KEYTURN_TOKEN holds it.\n')
  })

  const ID = '0123456789abcdef'
  test.each([
    [['client', 'show', `cli_${ID}`], `There is no such client\n  There is no client cli_${ID}.`],
    [['credential', 'show', `crd_${ID}`], `There is no such credential\n  There is no credential crd_${ID}.`],
    [['rotate', `crd_${ID}`], `There is no such credential\n  There is no credential crd_${ID}.`],
    [['status', `rot_${ID}`], `There is no such rotation\n  There is no rotation rot_${ID}.`],
    [['status', `rot_${ID}`, '--watch'], `There is no such rotation\n  There is no rotation rot_${ID}.`],
    [['roll-back', `rot_${ID}`, '--reason', 'x'], `There is no such rotation\n  There is no rotation rot_${ID}.`],
    [['gateway', 'gone', 'gw-x', '--reason', 'x'], 'There is no such gateway\n  There is no gateway gw-x.'],
  ])('%j', async (args, sentence) => {
    expect(await failing(1, args, here())).toBe(`error: ${sentence}\n`)
  })

  test('what answers is not Keyturn', async () => {
    const { server, url } = await listening((path) =>
      path === '/v1/gateways' ? [200, 'welcome'] : [502, '<h1>Bad gateway</h1>'],
    )
    const env = { KEYTURN_API: url, KEYTURN_TOKEN: 'x' }
    expect(await failing(1, ['gateway', 'list'], env)).toBe(
      'error: The answer is not JSON\n  Is KEYTURN_API the address of Keyturn?\n',
    )
    expect(await failing(1, ['status'], env)).toBe(
      'error: The API answers with status 502\n  It says nothing more. Is KEYTURN_API the address of Keyturn?\n',
    )
    server.close()
  })

  test('PostgreSQL is not there, does not let us in, or holds no registry', async () => {
    const verify = (url: string) => failing(1, ['audit', 'verify'], { KEYTURN_POSTGRES_URL: url })
    expect(await verify(`postgres://me:hunter2@${nowhere}/keyturn`)).toBe(
      `error: PostgreSQL at ${nowhere} does not answer\n  Is it running? (ECONNREFUSED) KEYTURN_POSTGRES_URL says where it is.\n`,
    )
    const server = new URL(inject('postgresUrl'))
    const { host } = server
    server.pathname = '/template1'
    expect(await verify(server.href)).toBe(
      'error: The database template1 holds no registry\n  KEYTURN_POSTGRES_URL says which one is looked at.\n',
    )
    server.pathname = '/not_there'
    expect(await verify(server.href)).toBe(
      `error: PostgreSQL at ${host} has no database not_there\n  KEYTURN_POSTGRES_URL says which one is looked at.\n`,
    )
    server.password = 'hunter2'
    expect(await verify(server.href)).toBe(
      `error: PostgreSQL at ${host} does not let us in (28P01)\n  Set user and password in KEYTURN_POSTGRES_URL.\n`,
    )
  })

  test('Kafka is not there: nothing is said to be published', async () => {
    await office.json(['client', 'create', '--name', 'Acme']).then((client) => {
      const { clientId } = client as { clientId: string }
      return office.json(['credential', 'create', '--client', clientId, '--name', 'feed', '--environment', 'dev'])
    })
    expect(await failing(1, ['republish'], here({ KEYTURN_KAFKA_BROKERS: nowhere }))).toBe(
      `error: Kafka at ${nowhere} does not answer\n  Is it running? KEYTURN_KAFKA_BROKERS says where it is. What has been published stays; run this again.\n`,
    )
  })
})

describe('.keyturn/local.json', () => {
  const local = () => ({
    api: office.api,
    token: office.house.config.operatorToken,
    console: office.api,
    gateways: [],
    kafka: office.house.config.kafkaBrokers,
    temporal: office.house.config.temporalAddress,
    postgres: office.house.config.postgresUrl,
  })
  const inside = (text: string): string => room({ '.keyturn/local.json': text, 'some/where/below/a-file': '' })

  test('is found from below, for the API and for the servers', async () => {
    const cwd = join(inside(JSON.stringify(local())), 'some/where/below')
    expect(await runKeyturn(['gateway', 'list'], { cwd })).toEqual({ code: 0, stdout: 'no gateways\n', stderr: '' })
    expect((await runKeyturn(['audit', 'verify'], { cwd })).stdout).toMatch(/^The audit log is whole: \d+ entries\n$/)
  })

  test('KEYTURN_STATE names another directory than .keyturn', async () => {
    const cwd = room({ '.keyturn/local.json': 'another', 'mine/local.json': JSON.stringify(local()) })
    const listed = await runKeyturn(['gateway', 'list'], { cwd, env: { KEYTURN_STATE: 'mine' } })
    expect(listed).toEqual({ code: 0, stdout: 'no gateways\n', stderr: '' })
  })

  test('its token is for its API alone', async () => {
    const shown: (string | undefined)[] = []
    const { server, url } = await listening((_, authorization) => {
      shown.push(authorization)
      return [200, '{"gateways": []}']
    })
    const cwd = inside(JSON.stringify(local()))
    expect(await failing(2, ['gateway', 'list'], { KEYTURN_API: url }, cwd)).toContain('Set KEYTURN_TOKEN beside KEYTURN_API')
    expect(shown).toEqual([])
    server.close()
  })

  test.each(['', '{"api": "http://127', '{"api": "http://127.0.0.1:1", "token": "x"}'])(
    'that is not what npm start writes is not used: %s',
    async (text) => {
      const cwd = inside(text)
      const args = text === '' ? ['audit', 'verify'] : ['status']
      expect(await failing(1, args, {}, cwd)).toBe(
        `error: ${cwd}/.keyturn/local.json is not what \`npm start\` writes\n  Run \`npm start\` again, or remove it.\n`,
      )
    },
  )
})

test('with --json, what went wrong is one JSON object on standard output', async () => {
  const fails = async (code: number, args: readonly string[], env: Readonly<Record<string, string>>) => {
    const finished = await runKeyturn([...args, '--json'], { env, cwd: room() })
    expect(finished.code).toBe(code)
    expect(finished.stderr).toMatch(/^error: /)
    return (JSON.parse(finished.stdout) as { error: object }).error
  }
  expect(await fails(1, ['status', 'rot_0123456789abcdef'], here())).toMatchObject({ code: 'unknown-rotation', status: 404 })
  expect(await fails(2, ['hold', 'rot_x'], here())).toEqual({ title: "required option '--reason <text>' not specified" })
  expect(await fails(1, ['status'], { KEYTURN_API: `http://${nowhere}`, KEYTURN_TOKEN: 'x' })).toEqual({
    title: `The API at ${nowhere} does not answer`,
    detail: 'Is it running? (ECONNREFUSED) KEYTURN_API says where it is.',
  })
  expect(await fails(2, ['status'], {})).toMatchObject({ title: 'Where is the API?' })
})

/** Runs the command on a terminal. */
async function onTerminal(env: Readonly<Record<string, string>>): Promise<string> {
  const { PATH = '' } = process.env
  const python = 'import pty, sys; pty.spawn(sys.argv[1:])'
  const child = spawn('python3', ['-c', python, process.execPath, COMMAND, 'status'], {
    cwd: room(),
    env: { PATH, TERM: 'xterm', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  await once(child, 'close')
  return output
}

test('colours are for terminals, and NO_COLOR is honoured', async () => {
  expect(await onTerminal({})).toContain('\u001b[31merror\u001b[39m: Where is the API?')
  for (const env of [{ NO_COLOR: '1' }, { TERM: 'dumb' }, { FORCE_COLOR: '0' }])
    expect(await onTerminal(env)).toMatch(/^error: Where is the API/)
})

async function listening(
  answer: (path: string, authorization: string | undefined) => [number, string],
): Promise<{ server: Server; url: string }> {
  const server = createServer((request, response) => {
    const [status, text] = answer((request.url ?? '').split('?')[0] ?? '', request.headers.authorization)
    response.writeHead(status, { 'content-type': 'text/html' }).end(text)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}
