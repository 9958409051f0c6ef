/** The examples of docs/examples/by-hand, each run as it stands, against the real API and a real gateway. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { problem } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { run } from '../../infra/stack/tools.ts'
import { apiHouse, reached, redeem, trigger } from '../api/support.ts'
import { findGo } from '../support/go.ts'
import { eventually, type TestCredential } from '../support/house.ts'
import { type GatewayProcess, startGatewayProcess, startUpstream } from '../support/processes.ts'

const EXAMPLES = fileURLToPath(new URL('../../docs/examples/by-hand/', import.meta.url))
const at = apiHouse({ gateways: 0 })
const PATIENCE_MS = 120_000

let gateway: GatewayProcess
let upstream: Awaited<ReturnType<typeof startUpstream>>
const directory = mkdtempSync(join(tmpdir(), 'keyturn-by-hand-'))
const GO_BUILT = join(directory, 'go-client')
beforeAll(async () => {
  if (go !== undefined) {
    const { ok, output } = await run(go, ['build', '-o', GO_BUILT, '.'], { cwd: join(EXAMPLES, 'go') })
    if (!ok) throw new Error(output)
  }
  upstream = await startUpstream()
  gateway = await startGatewayProcess(at.house, 'gw-1', { KEYTURN_GATEWAY_UPSTREAM: upstream.url })
}, 600_000)
afterAll(async () => {
  await gateway?.stop()
  upstream?.server.close()
  rmSync(directory, { recursive: true, force: true })
})

const say = (what: string): void => void process.stderr.write(`${what}\n`)
const go = await findGo(say)

/** Whether a program is there; says so when it is not, for its example is not run then. */
function has(program: string, args: readonly string[], wanted: RegExp): boolean {
  const { stdout = '' } = spawnSync(program, args, { encoding: 'utf8' })
  if (wanted.test(stdout)) return true
  say(`the example with ${program} is left out: it is not there, or too old`)
  return false
}

interface Example {
  /** What the file with the keys holds. */
  write(token: string): string
  current(text: string): string
  /** Calls all the time until SIGTERM, and says `served N, failed M` then. */
  command(keysFile: string, url: string, api: string): { command: string; args: readonly string[]; env?: NodeJS.ProcessEnv }
}

const json = {
  write: (token: string) => JSON.stringify({ current: token }),
  current: (text: string) => (JSON.parse(text) as { current: string }).current,
}

/** What a job that calls now and then does with the script. */
const LOOP = `
trap 'ending=1' TERM
served=0 failed=0 ending=
until [ -n "$ending" ]; do
  if [ "$("$1" --get "$2")" = ok ]; then served=$((served + 1)); else failed=$((failed + 1)); fi
done
echo "served $served, failed $failed"
`

const EXAMPLE: Readonly<Record<string, Example>> = {
  Python: {
    ...json,
    command: (keysFile, url, api) => ({
      command: 'python3',
      args: [join(EXAMPLES, 'keyturn_client.py'), keysFile, api, url],
    }),
  },
  Go: {
    ...json,
    command: (keysFile, url, api) => ({ command: GO_BUILT, args: [keysFile, api, url] }),
  },
  sh: {
    write: (token) => `${token}\n`,
    current: (text) => text.split('\n')[0] ?? '',
    command(keysFile, url, api) {
      const loop = join(directory, 'loop.sh')
      writeFileSync(loop, LOOP)
      const env = { ...process.env, KEYS: keysFile, KEYTURN_API: api }
      return { command: 'sh', args: [loop, join(EXAMPLES, 'keyturn.sh'), url], env }
    },
  },
}

function start(name: string, { token }: TestCredential, api = at.client.url) {
  const example = EXAMPLE[name] as Example
  const keysFile = join(mkdtempSync(join(directory, 'keys-')), 'keys')
  writeFileSync(keysFile, example.write(token), { mode: 0o600 })
  const { command, args, env } = example.command(keysFile, `${gateway.url}/v1/ticker`, api)
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...(env === undefined ? {} : { env }) })
  onTestFinished(() => void child.kill('SIGKILL'))
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text))
  return {
    current: () => example.current(readFileSync(keysFile, 'utf8')),
    said: () => said,
    async end(): Promise<void> {
      child.kill('SIGTERM')
      await eventually(
        () => /served \d+/.test(said) || (child.exitCode !== null && said),
        () => `the end of ${name}: ${said}`,
      )
    },
  }
}

/** The API, which is not ready at first. @returns its address, and how often a new key was asked for */
async function unreadyApi(): Promise<{ url: string; asked: () => number }> {
  let asked = 0
  const server = createServer((request, response) => {
    asked += 1
    if (asked === 1) {
      const early = problem('no-successor')
      response.writeHead(early.status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(early))
      return
    }
    const { method, url = '', headers } = request
    const pass = httpRequest(at.client.url + url, { ...(method === undefined ? {} : { method }), headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    pass.on('error', () => response.destroy())
    request.pipe(pass)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked: () => asked }
}

describe.each([
  ['Python', has('python3', ['--version'], /Python 3\.(?:[89]|\d\d)/)],
  ['Go', go !== undefined],
  ['sh', has('curl', ['--version'], /^curl /) && has('flock', ['--version'], /flock/)],
])('by hand in %s', (name, there) => {
  test.skipIf(!there)('follows a rotation, a roll-back, and the next rotation, and loses no request', async () => {
    const credential = await at.house.credential()
    const program = start(name, credential)
    const first = (await trigger(at.client, credential.credentialId, { quietPeriod: '5m' })).body
    await eventually(
      () => program.current() !== credential.token,
      () => `the new key; ${program.said()}`,
      PATIENCE_MS,
    )
    const withdrawn = program.current()
    await eventually(async () => (await at.house.keys(credential.credentialId)).length === 2, 'both keys')
    await at.client.post(`/v1/rotations/${first.rotationId}/roll-back`, { reason: 'refused elsewhere' })
    await reached(at.client, first.rotationId, 'rolled-back')
    await eventually(
      () => program.current() === credential.token,
      () => `the old key; ${program.said()}`,
      PATIENCE_MS,
    )

    const second = (await trigger(at.client, credential.credentialId, { quietPeriod: '1s' })).body
    await reached(at.client, second.rotationId, 'completed')
    await program.end()
    expect([credential.token, withdrawn]).not.toContain(program.current())
    expect(await gateway.call(program.current())).toBe(200)
    const [, served] = /^served (\d+), failed 0\n$/.exec(program.said()) ?? [program.said()]
    expect(Number(served)).toBeGreaterThan(10)
  })

  test.skipIf(!there)(
    'asks again for what was not there yet, not for what is lost, and claims in the next rotation',
    async () => {
      const credential = await at.house.credential()
      const api = await unreadyApi()
      const lost = (await trigger(at.client, credential.credentialId, { quietPeriod: '5m' })).body
      await reached(at.client, lost.rotationId, 'monitoring')
      await redeem(at.client, await at.house.claimCodeOf(lost.rotationId))
      const program = start(name, credential, api.url)
      await eventually(
        () => program.said().includes('claim-used'),
        () => `the refusal; ${program.said()}`,
        PATIENCE_MS,
      )
      await at.client.post(`/v1/rotations/${lost.rotationId}/roll-back`, { reason: 'the new key is lost' })
      await reached(at.client, lost.rotationId, 'rolled-back')
      expect(api.asked()).toBe(2)
      await trigger(at.client, credential.credentialId, { quietPeriod: '5m' })
      await eventually(
        () => program.current() !== credential.token,
        () => `the new key; ${program.said()}`,
        PATIENCE_MS,
      )
      expect(await gateway.call(program.current())).toBe(200)
      await program.end()
      expect(program.said()).toMatch(/served [1-9]\d*, failed 0\n$/)
    },
  )
})
