/** `keyturn agent` as a process, beside a program that it signals, in front of real gateways. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { eventually } from '../support/house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../support/processes.ts'
import { emptyDirectory, type Office, openOffice, startKeyturn } from './office.ts'

let office: Office
let gateways: GatewayProcess[]
let upstream: Awaited<ReturnType<typeof startUpstream>>
beforeAll(async () => {
  office = await openOffice({ gateways: 0 })
  upstream = await startUpstream()
  const env = { KEYTURN_GATEWAY_UPSTREAM: upstream.url }
  gateways = await Promise.all(['gw-1', 'gw-2'].map((id) => startGatewayProcess(office.house, id, env)))
})
afterAll(async () => {
  await Promise.all((gateways ?? []).map((gateway) => gateway.stop()))
  upstream?.server.close()
  await office?.close()
})

/** Reads its key at the start and at SIGHUP, and calls all the time; a line for each answer that is not 200, and `served N` in the end. */
const PROGRAM = `
import { readFileSync, writeFileSync } from 'node:fs'
const [, , keyFile, pidFile, ...urls] = process.argv
let key = readFileSync(keyFile, 'utf8')
process.on('SIGHUP', () => { key = readFileSync(keyFile, 'utf8') })
let ending = false
process.on('SIGTERM', () => { ending = true })
writeFileSync(pidFile, String(process.pid))
let served = 0
for (let i = 0; !ending; i++) {
  const shown = key
  const { status } = await fetch(urls[i % urls.length] + '/v1/ticker', { headers: { authorization: 'Bearer ' + shown } })
  if (status === 200) served += 1
  else console.log('failed ' + status)
  await new Promise((resolve) => setTimeout(resolve, 20))
}
console.log('served ' + served)
`

test('a program that knows nothing of rotations gets its new key by a signal, and loses no request', async () => {
  const { house, api } = office
  const directory = emptyDirectory()
  onTestFinished(directory.remove)
  const at = (name: string): string => join(directory.path, name)
  const credential = await house.credential()
  writeFileSync(at('first-key'), `${credential.token}\n`, { mode: 0o600 })
  writeFileSync(at('key'), credential.token, { mode: 0o600 })
  writeFileSync(at('program.mjs'), PROGRAM)
  writeFileSync(
    at('agent.yaml'),
    `api: ${api}
credentialId: ${credential.credentialId}
store: { file: ${at('store.json')} }
firstKeyFile: ${at('first-key')}
files: [{ path: ${at('key')} }]
program: { signal: SIGHUP, pidFile: ${at('pid')} }
check: { used: 60s }
interval: 300ms
`,
  )
  const program = spawn(process.execPath, [at('program.mjs'), at('key'), at('pid'), ...gateways.map(({ url }) => url)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void program.kill('SIGKILL'))
  let said = ''
  program.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text
  })
  await eventually(() => existsSync(at('pid')), 'the program')
  const agent = startKeyturn(['agent', '--config', at('agent.yaml')], { cwd: directory.path, env: { VAULT_TOKEN: 'PRECIOUS' } })
  onTestFinished(() => agent.kill())
  // It starts slowly where there is no bundle of the command.
  await eventually(() => agent.stdout.includes('"watching"'), 'the agent', 180_000)

  const { rotationId } = await house.rotate(credential.credentialId, { quietPeriodMs: 1_000, regretWindowMs: 1_000 })
  await house.reached(rotationId, 'completed', 120_000)
  await agent.says('"switched"')
  expect(readFileSync(at('key'), 'utf8')).not.toBe(credential.token)
  program.kill('SIGTERM')
  await eventually(() => /served \d+/.test(said), 'the end of the program')
  expect(said).toMatch(/^served \d+\n$/)
  expect(Number(/served (\d+)/.exec(said)?.[1])).toBeGreaterThan(20)
  expect(agent.stdout).not.toMatch(/kt_prod_|PRECIOUS/)
})

test('SIGTERM ends it when its command has ended, a second one at once', async () => {
  const { house, api } = office
  const directory = emptyDirectory()
  onTestFinished(directory.remove)
  const at = (name: string): string => join(directory.path, name)
  const { token } = await house.credential()
  writeFileSync(at('first-key'), token, { mode: 0o600 })
  const slow = `trap '' TERM; echo $$ > ${at('pid')}; until [ -e ${at('go')} ]; do sleep 0.1; done; touch ${at('done')}`
  const config = {
    api,
    store: { env: at('.env'), variable: 'SHOP_KEY' },
    firstKeyFile: at('first-key'),
    files: [{ path: at('key') }],
    program: { run: ['sh', '-c', slow] },
    check: { used: false },
  }
  writeFileSync(at('agent.json'), JSON.stringify(config))
  const start = () => startKeyturn(['agent', '--config', at('agent.json')], { cwd: directory.path })

  const first = start()
  await eventually(() => existsSync(at('pid')), 'the command', 180_000)
  expect(readFileSync(at('.env'), 'utf8')).toContain(`SHOP_KEY=${token}`)
  // Two that come while it does not run are one to it.
  const again = setInterval(() => process.kill(first.pid, 'SIGTERM'), 500)
  expect((await first.finished.finally(() => clearInterval(again))).code).toBe(1)
  expect(existsSync(at('done'))).toBe(false)

  const second = start()
  await eventually(() => second.stdout.includes('"watching"'), 'the agent', 180_000)
  writeFileSync(at('key'), 'another')
  writeFileSync(at('go'), '')
  process.kill(second.pid, 'SIGTERM')
  expect((await second.finished).code).toBe(0)
})

test('begins with a claim from the environment or a file; one that is used, or is none, ends it with a word', async () => {
  const directory = emptyDirectory()
  onTestFinished(directory.remove)
  const at = (name: string): string => join(directory.path, name)
  const { clientId } = await office.json<{ clientId: string }>(['client', 'create', '--name', 'Acme'])
  const create = ['credential', 'create', '--client', clientId, '--name', 'feed', '--environment', 'prod']
  const { claim, claimUrl } = await office.json<{ claim: string; claimUrl: string }>(create)
  const config = {
    api: office.api,
    store: { file: at('store.json') },
    firstClaimFile: at('first-claim'),
    files: [{ path: at('key') }],
    check: { used: false },
  }
  const start = (change: object = {}, env: Record<string, string> = {}) => {
    writeFileSync(at('agent.json'), JSON.stringify({ ...config, ...change }))
    return startKeyturn(['agent', '--config', at('agent.json')], { cwd: directory.path, env })
  }
  const agent = start({}, { KEYTURN_FIRST_CLAIM: claimUrl })
  await agent.says('"switched"')
  process.kill(agent.pid, 'SIGTERM')
  expect((await agent.finished).code).toBe(0)
  expect(readFileSync(at('key'), 'utf8')).toMatch(/^kt_prod_/)
  expect(agent.stdout).not.toMatch(new RegExp(`kt_prod_|${claim}`))

  writeFileSync(at('first-claim'), `${claim}\n`)
  const used = await start({ store: { file: at('other.json') } }).finished
  expect([used.code, used.stderr]).toEqual([1, expect.stringContaining('the key was not handed out: claim-used')])
  writeFileSync(at('first-claim'), 'PRECIOUS')
  const none = await start({ store: { file: at('third.json') } }).finished
  expect([none.code, none.stderr]).toEqual([2, expect.stringMatching(/the first claim: there is no claim code in it/)])
  expect(none.stdout + none.stderr).not.toContain('PRECIOUS')
})

test('a configuration that can not work is a wrong usage, said with the field', async () => {
  const directory = emptyDirectory()
  onTestFinished(directory.remove)
  const file = join(directory.path, 'agent.yaml')
  for (const [text, message] of [
    ['api: https://keys.example.com', 'store: is missing'],
    ['api: [', 'is not YAML'],
    [undefined, 'is not there'],
  ] as const) {
    if (text !== undefined) writeFileSync(file, text)
    const name = text === undefined ? `${file}.other` : file
    const { code, stderr } = await startKeyturn(['agent', '--config', name], { cwd: directory.path }).finished
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)])
  }
  writeFileSync(file, 'api: https://keys.example.com\nstore: { file: key.json }\n')
  expect((await startKeyturn(['agent', '--config', file, '--check-config'], { cwd: directory.path }).finished).code).toBe(0)
})
