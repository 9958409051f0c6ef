import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import pg from 'pg'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { cached } from '../../infra/stack/cache.ts'
import { startStack } from '../../infra/stack/index.ts'
import { VERSIONS } from '../../infra/stack/versions.ts'
import { alive, failedOwner, familyOf, type Owner, ownTemporaryDirectory, type Process, startOwner } from './owner.ts'

const onLinux = process.platform === 'linux'
const temporary = ownTemporaryDirectory()
const env = { TMPDIR: temporary }
const children: ChildProcess[] = []
const families: Process[] = []

async function start(services: string, more: readonly string[] = []): Promise<Owner> {
  const owner = await startOwner([services, ...more], env)
  children.push(owner.child)
  families.push(...familyOf(owner.pid))
  return owner
}

afterAll(() => {
  for (const child of children) child.kill('SIGKILL')
  // Only a failed test leaves any of these.
  for (const { pid } of alive(families)) process.kill(pid, 'SIGKILL')
  rmSync(temporary, { recursive: true, force: true })
})
afterEach(() => {
  vi.unstubAllEnvs()
})

const ended = (child: ChildProcess): Promise<void> =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve()
    : new Promise((resolve) => child.once('exit', () => resolve()))

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.query('select 1')
    return true
  } catch {
    return false
  } finally {
    await client.end().catch(() => {})
  }
}

/** A directory with a program in it that stands for a real one. */
function fakeProgram(name: string, script: string): string {
  const directory = join(temporary, `bin-${name}`)
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, name), `#!/bin/sh\n${script}\n`)
  chmodSync(join(directory, name), 0o755)
  return directory
}

describe.skipIf(!onLinux)('what is left of a run', () => {
  test('nothing, 15 s after its process was killed: servers, children that ignore SIGTERM, unguarded children, files', async () => {
    const owner = await start('postgres,temporal', ['children'])
    const family = familyOf(owner.pid)
    const commands = family.map(({ command }) => command).join('\n')
    for (const expected of ['bin/postgres', 'server start-dev', 'trap', 'sleep 1000', 'reaper.mjs'])
      expect(commands).toContain(expected)
    process.kill(owner.pid, 'SIGKILL')
    await vi.waitFor(() => expect(alive(family)).toEqual([]), { timeout: 15_000, interval: 200 })
    expect(existsSync(owner.runDirectory)).toBe(false)
  })

  test('nothing after the next start, when its reaper was killed too; a process that has got an old pid lives on', async () => {
    const owner = await start('postgres')
    const family = familyOf(owner.pid)
    const reaper = family.find(({ command }) => command.includes('reaper.mjs'))
    expect(reaper).toBeDefined()
    // Stopped first, as it would replace its reaper.
    process.kill(owner.pid, 'SIGSTOP')
    process.kill(reaper?.pid ?? 0, 'SIGKILL')
    process.kill(owner.pid, 'SIGKILL')
    await ended(owner.child)
    expect(
      alive(family)
        .map(({ command }) => command)
        .join(),
    ).toContain('bin/postgres')

    const bystander = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' })
    children.push(bystander)
    const forged = join(dirname(owner.runDirectory), 'run-1-000000000000')
    const record = JSON.parse(readFileSync(join(owner.runDirectory, 'run.json'), 'utf8')) as { groups: object[] }
    mkdirSync(forged)
    const groups = [{ pid: bystander.pid, start: '1', signal: 'SIGKILL' }]
    writeFileSync(join(forged, 'run.json'), JSON.stringify({ ...record, id: 'run-1-000000000000', groups }))

    const next = await start('postgres')
    expect(alive(family)).toEqual([])
    expect(existsSync(owner.runDirectory)).toBe(false)
    expect(existsSync(forged)).toBe(false)
    expect(bystander.exitCode ?? bystander.signalCode).toBeNull()
    expect(await answers(next.postgresUrl)).toBe(true)
  })

  test('two runs at a time do not disturb each other, and each stops its own', async () => {
    const [one, other] = await Promise.all([start('postgres'), start('postgres,temporal')])
    const family = familyOf(one.pid)
    expect(one.postgresUrl).not.toBe(other.postgresUrl)
    process.kill(one.pid, 'SIGTERM')
    await ended(one.child)
    await vi.waitFor(() => expect(alive(family)).toEqual([]), { timeout: 5_000, interval: 100 })
    expect(existsSync(one.runDirectory)).toBe(false)
    expect(await answers(other.postgresUrl)).toBe(true)
  })
})

describe('fetching', () => {
  test('a fetch that fails says what was wanted and what to set instead, and leaves nothing behind', async () => {
    const cache = join(temporary, 'cache-failing')
    const mvn = fakeProgram(
      'mvn',
      'for last; do :; done; : > "$(echo "$last" | cut -d= -f2)/half.jar"; echo "[ERROR] unreachable"; exit 1',
    )
    const said = await failedOwner(['kafka'], { ...env, KEYTURN_CACHE: cache, PATH: `${mvn}:${process.env['PATH']}` })
    expect(said).toContain(`Maven artifacts ${VERSIONS.kafka.artifacts.join(', ')} could not be fetched with mvn`)
    expect(said).toContain('set KEYTURN_KAFKA_BROKERS')
    expect(said).toContain('[ERROR] unreachable')
    expect(readdirSync(cache)).toEqual([])
  })

  test('a missing program is one sentence that says what to do', async () => {
    const said = await failedOwner(['kafka'], {
      ...env,
      KEYTURN_CACHE: join(temporary, 'cache-none'),
      PATH: join(temporary, 'none'),
      JAVA_HOME: '',
    })
    expect(said).toBe(
      'Java 17 or newer is missing: install it (on Debian the package openjdk-17-jre-headless), ' +
        'or set KEYTURN_KAFKA_BROKERS to a Kafka that runs already\n',
    )
  })

  test('two who want the same fetch it once; what a killed one had begun does not count', async () => {
    vi.stubEnv('KEYTURN_CACHE', join(temporary, 'cache-shared'))
    mkdirSync(join(temporary, 'cache-shared', 'thing.part-dead'), { recursive: true })
    let fetches = 0
    const fetchThing = async (directory: string): Promise<void> => {
      fetches++
      writeFileSync(join(directory, 'half'), '')
      await new Promise((resolve) => setTimeout(resolve, 100))
      writeFileSync(join(directory, 'whole'), '')
    }
    const waiting = vi.fn()
    const paths = await Promise.all([cached('thing', fetchThing, waiting), cached('thing', fetchThing, waiting)])
    expect(fetches).toBe(1)
    expect(waiting).toHaveBeenCalledTimes(1)
    expect(paths.map((path) => readdirSync(path).sort())).toEqual(Array(2).fill(['half', 'whole']))
    expect(readdirSync(join(temporary, 'cache-shared'))).toEqual(['thing'])
  })
})

test('servers that the environment names are used as they are, not started and not stopped', async () => {
  vi.stubEnv('KEYTURN_POSTGRES_URL', 'postgres://me@db.example/keyturn')
  vi.stubEnv('KEYTURN_KAFKA_BROKERS', 'k1.example:9092, k2.example:9092')
  vi.stubEnv('KEYTURN_TEMPORAL_ADDRESS', 'temporal.example:7233')
  const before = onLinux ? familyOf(process.pid).map(({ pid }) => pid) : []
  const { stop, own, ...addresses } = await startStack({ services: ['postgres', 'kafka', 'temporal'], progress: 'silent' })
  expect(addresses).toEqual({
    postgresUrl: 'postgres://me@db.example/keyturn',
    kafkaBrokers: ['k1.example:9092', 'k2.example:9092'],
    temporalAddress: 'temporal.example:7233',
  })
  expect(own).toEqual({})
  await stop()
  if (onLinux) expect(familyOf(process.pid).filter(({ pid }) => !before.includes(pid))).toEqual([])
})
