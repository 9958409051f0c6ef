/** The examples of docs/examples/by-hand, each run as it stands, against the real API and a real gateway. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { run } from '../../infra/stack/tools.ts'
import { apiHouse, reached, trigger } from '../api/support.ts'
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
  command(keysFile: string, url: string): { command: string; args: readonly string[]; env?: NodeJS.ProcessEnv }
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
    command: (keysFile, url) => ({
      command: 'python3',
      args: [join(EXAMPLES, 'keyturn_client.py'), keysFile, at.client.url, url],
    }),
  },
  Go: {
    ...json,
    command: (keysFile, url) => ({ command: GO_BUILT, args: [keysFile, at.client.url, url] }),
  },
  sh: {
    write: (token) => `${token}\n`,
    current: (text) => text.split('\n')[0] ?? '',
    command(keysFile, url) {
      const loop = join(directory, 'loop.sh')
      writeFileSync(loop, LOOP)
      const env = { ...process.env, KEYS: keysFile, KEYTURN_API: at.client.url }
      return { command: 'sh', args: [loop, join(EXAMPLES, 'keyturn.sh'), url], env }
    },
  },
}

function start(name: string, { token }: TestCredential) {
  const example = EXAMPLE[name] as Example
  const keysFile = join(mkdtempSync(join(directory, 'keys-')), 'keys')
  writeFileSync(keysFile, example.write(token), { mode: 0o600 })
  const { command, args, env } = example.command(keysFile, `${gateway.url}/v1/ticker`)
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
})
