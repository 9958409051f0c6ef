/** The gateway as a provider installs it beside an API of its own: in plain Node, with types, and with nothing that it does not name. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
/** What an API has that takes the gateway in. */
const OF_THE_API = ['fastify', 'hono', '@types']

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
}

let place: string
const folderOf = (name: string): string => join(place, 'node_modules/@keyturn', name)
const manifestOf = (name: string): Manifest => JSON.parse(readFileSync(join(folderOf(name), 'package.json'), 'utf8'))

beforeAll(() => {
  place = mkdtempSync(join(tmpdir(), 'keyturn-gateway-'))
  const script = join(ROOT, 'gateway/scripts/build.ts')
  execFileSync(process.execPath, ['--import', 'tsx', script, join(place, 'node_modules')], { cwd: ROOT, stdio: 'inherit' })
  const named = ['contract', 'gateway'].flatMap((name) => Object.keys(manifestOf(name).dependencies ?? {}))
  for (const name of new Set([...named, ...OF_THE_API])) {
    const at = join(place, 'node_modules', name)
    mkdirSync(dirname(at), { recursive: true })
    if (!name.startsWith('@keyturn/')) symlinkSync(join(ROOT, 'node_modules', name), at)
  }
})
afterAll(() => rmSync(place, { recursive: true, force: true }))

test.each(['contract', 'gateway'])('%s: names every package that it imports, and holds no sources', (name) => {
  const files = readdirSync(folderOf(name), { recursive: true, encoding: 'utf8' })
  expect(files.filter((file) => /(?<![.]d)[.]ts$/.test(file))).toEqual([])
  const imported = files
    .filter((file) => /[.](?:js|d[.]ts)$/.test(file))
    .flatMap((file) => [...readFileSync(join(folderOf(name), file), 'utf8').matchAll(/(?:from|import[(]?) ?'([^.'][^']*)'/g)])
    .map(([, from = '']) => from)
    .filter((from) => !from.startsWith('node:'))
    .map((from) => /^(?:@[^/]+[/])?[^/]+/.exec(from)?.[0])
  const { dependencies, peerDependencies } = manifestOf(name)
  const named = Object.keys({ ...dependencies, ...peerDependencies })
  expect(imported.length).toBeGreaterThan(0)
  expect(imported.filter((from) => from === undefined || !named.includes(from))).toEqual([])
})

test('the process starts in plain Node, and says what it needs', () => {
  const main = join(folderOf('gateway'), 'dist/main.js')
  const { status, stderr } = spawnSync(process.execPath, [main], { encoding: 'utf8', env: { PATH: process.env['PATH'] } })
  expect([status, stderr.split('\n')[0]]).toEqual([
    2,
    expect.stringMatching(/^keyturn-gateway: KEYTURN_KAFKA_BROKERS is not set/),
  ])
})

test('each way in can be imported, and its types are whole', () => {
  const script = join(place, 'use.mjs')
  writeFileSync(
    script,
    `import { createGateway } from '@keyturn/gateway'
     const ways = ['express', 'fastify', 'hono', 'node'].map((name) => import('@keyturn/gateway/' + name))
     console.log(typeof createGateway, (await Promise.all(ways)).map(({ keyturn }) => typeof keyturn).join())`,
  )
  expect(execFileSync(process.execPath, [script], { encoding: 'utf8' })).toBe('function function,function,function,function\n')
  writeFileSync(
    join(place, 'use.mts'),
    `import { createGateway, createLog, optionsFromEnvironment } from '@keyturn/gateway'
     import { keyturn } from '@keyturn/gateway/fastify'
     import { fastify } from 'fastify'
     const gateway = createGateway({ ...(await optionsFromEnvironment()), log: createLog() })
     // @ts-expect-error there is no such option
     createGateway({ ...(await optionsFromEnvironment()), log: createLog(), retries: 3 })
     const app = fastify()
     await app.register(keyturn, { gateway })
     app.get('/', { config: { keyturn: { scopes: ['a'] } } }, ({ keyturn }) => keyturn?.clientId.toUpperCase())
     // @ts-expect-error who calls has no such field
     app.get('/other', ({ keyturn }) => keyturn?.password)`,
  )
  const compilerOptions = {
    strict: true,
    noEmit: true,
    module: 'nodenext',
    target: 'es2023',
    types: ['node'],
    skipLibCheck: true,
  }
  writeFileSync(join(place, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['use.mts'] }))
  execFileSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', place], { stdio: 'inherit' })
})
