/** The real servers, with the configurations that we hand out. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createForwardAuth, startServer } from '@keyturn/gateway'
import getPort from 'get-port'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { addressList } from '../../gateway/src/restriction.ts'
import { behavesAsAGateway, type Traits } from './suite.ts'
import { eventually } from './support.ts'
import { ask, type Front, openWorld, type World } from './world.ts'

const CONFIGURATIONS = fileURLToPath(new URL('../../infra/forward-auth/', import.meta.url))

let world: World
let keyturn: URL
beforeAll(async () => {
  world = await openWorld()
  keyturn = await openAuth(['127.0.0.1'])
})
afterAll(() => world.close())

async function openAuth(askers: readonly string[]): Promise<URL> {
  const { gateway, log } = world
  const proxy = createForwardAuth({ gateway, askers: addressList(askers), trustedProxies: 0, log })
  const server = await startServer({ gateway, proxy, listen: { host: '127.0.0.1', port: 0 }, idleMs: 30_000, log })
  world.onClose(() => server.close())
  return new URL(server.url)
}

interface ProxyServer {
  readonly name: string
  readonly files: readonly string[]
  /** @param directory where its files are */
  command(directory: string): readonly string[]
  readonly traits?: Traits
}

const SERVERS: readonly ProxyServer[] = [
  {
    name: 'nginx',
    files: ['nginx.conf'],
    command: (at) => ['nginx', '-p', at, '-e', 'stderr', '-g', `daemon off; pid ${at}/pid;`, '-c', join(at, 'nginx.conf')],
    traits: { ownAnswerToTwice: 400 },
  },
  {
    name: 'caddy',
    files: ['Caddyfile'],
    command: (at) => ['caddy', 'run', '--adapter', 'caddyfile', '--config', join(at, 'Caddyfile')],
  },
  { name: 'haproxy', files: ['haproxy.cfg', 'keyturn.lua'], command: (at) => ['haproxy', '-db', '-f', join(at, 'haproxy.cfg')] },
]

const installed = (program: string): boolean => {
  try {
    execFileSync('which', [program], { env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` }, stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

async function start(server: ProxyServer): Promise<Front> {
  const directory = await mkdtemp(join(tmpdir(), `keyturn-${server.name}-`))
  const port = await getPort()
  for (const file of server.files) {
    const text = await readFile(join(CONFIGURATIONS, file), 'utf8')
    const here = text
      .replaceAll('127.0.0.1:8081', keyturn.host)
      .replaceAll('127.0.0.1:8000', world.api.host)
      .replaceAll(/(?<=listen |bind |:\/\/):?8080/g, `127.0.0.1:${port}`)
      .replaceAll('/etc/haproxy/', `${directory}/`)
    await writeFile(join(directory, file), here)
  }
  const [program = '', ...args] = server.command(directory)
  const child: ChildProcess = spawn(program, args, {
    env: { PATH: `${process.env['PATH']}:/usr/sbin`, HOME: directory },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data: Buffer) => (output += data.toString()))
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  world.onClose(async () => {
    child.kill('SIGTERM')
    await gone
    await rm(directory, { recursive: true, force: true })
  })
  const url = new URL(`http://127.0.0.1:${port}`)
  await eventually(
    `${server.name} listens`,
    async () => (child.exitCode === null ? await ask(url, []).then(() => '', String) : `it ended: ${output}`),
    (trouble) => trouble === '' || child.exitCode !== null,
    30_000,
  ).then((trouble) => expect(trouble).toBe(''))
  return { url, orders: new URL('/orders', url) }
}

for (const server of SERVERS) {
  if (installed(server.name))
    behavesAsAGateway(
      server.name,
      () => world,
      () => start(server),
      server.traits,
    )
  else
    describe.skip(`${server.name}, which is not installed here: apt-get install ${server.name}`, () =>
      test('is not tried', () => undefined))
}

describe('the forward-auth server', () => {
  const auth = (fields: readonly string[], path = '/auth', at = keyturn) => ask(new URL(path, at), fields)
  const bearer = (token: string) => ['Authorization', `Bearer ${token}`]

  test('answers 204 with who calls, and 401 or 403 with the problem, also in one field', async () => {
    const { good, old } = world.keys
    const accepted = await auth(bearer(good.token))
    expect(accepted).toMatchObject({ status: 204, body: '', headers: { 'keyturn-client': good.record.clientId } })
    expect((await auth(bearer(old.token))).headers['keyturn-key-rotation']).toContain('successor=2')
    const refused = await auth(bearer(good.token), '/auth?scope=orders:read&scope=orders:write')
    expect([refused.status, refused.headers['keyturn-problem']]).toEqual([403, refused.body])
    expect((await auth(bearer(good.token), '/auth?scope=orders:read')).status).toBe(204)
  })

  test('believes what the original request was from the proxies it was told of, and from them alone', async () => {
    const { fromElsewhere, getOnly } = world.keys
    const stranger = await openAuth(['192.0.2.1'])
    const from = (address: string) => [...bearer(fromElsewhere.token), 'X-Forwarded-For', address]
    expect((await auth(from('192.0.2.7'))).status).toBe(204)
    expect((await auth(from('192.0.2.7, 198.51.100.1'))).status).toBe(403)
    expect((await auth(bearer(fromElsewhere.token))).status).toBe(403)
    expect((await auth(from('192.0.2.7'), '/auth', stranger)).status).toBe(403)
    const method = (...methods: string[]) => [
      ...bearer(getOnly.token),
      ...methods.flatMap((name) => ['X-Forwarded-Method', name]),
    ]
    expect((await auth(method('GET'))).status).toBe(204)
    for (const methods of [[], ['POST'], ['GET', 'POST']]) expect((await auth(method(...methods))).status).toBe(403)
    expect((await auth(method('GET'), '/auth', stranger)).status).toBe(403)
  })

  test('lets nobody in when the proxy asks for what no key can have, or elsewhere', async () => {
    const { token } = world.keys.good
    expect((await auth(bearer(token), '/auth?scope=Orders+Write')).status).toBe(400)
    expect((await auth(bearer(token), '/')).status).toBe(404)
  })

  test.each([
    ['//', 404],
    ['///auth', 404],
    ['//auth/auth', 404],
    ['/auth/', 404],
    ['/auth?', 204],
    ['http://[::1]/auth?scope=orders:read', 204],
    ['http://elsewhere/auth?scope=orders%3Awrite', 403],
    ['*', 404],
  ])('takes the target as it is written: %s', async (target, status) => {
    const answer = await new Promise((resolve, reject) => {
      const headers = { 'x-api-key': world.keys.good.token }
      const { hostname, port } = keyturn
      const outgoing = request({ hostname, port, path: target, headers, agent: false }, (response) => {
        response.resume()
        resolve(response.statusCode)
      })
      outgoing.on('error', reject).end()
    })
    expect(answer).toBe(status)
  })

  test('reads no body', async () => {
    const status = await new Promise((resolve, reject) => {
      const outgoing = request(new URL('/auth', keyturn), { method: 'POST', headers: { 'x-api-key': world.keys.good.token } })
      outgoing.on('response', (response) => {
        response.resume()
        outgoing.destroy()
        resolve(response.statusCode)
      })
      outgoing.on('error', reject)
      outgoing.write('never ends')
    })
    expect(status).toBe(204)
  })
})
