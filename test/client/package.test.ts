/** The packages as they are published: small, without Node where it says so, and at work in a real browser. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { HEADERS } from '@keyturn/contract'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { browserAt, openBrowser } from '../support/browser.ts'
import { Provider } from './provider.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const MOST_BYTES = 50 * 1024

let place: string
let folder: string
beforeAll(() => {
  place = mkdtempSync(join(tmpdir(), 'keyturn-package-'))
  folder = join(place, 'node_modules/@keyturn/client')
  execFileSync(process.execPath, ['--import', 'tsx', join(ROOT, 'client/scripts/build.ts'), join(place, 'node_modules')], {
    cwd: ROOT,
    stdio: 'inherit',
  })
  for (const name of ['jose', 'structured-headers', 'aws4fetch', '@types'])
    symlinkSync(join(ROOT, 'node_modules', name), join(place, 'node_modules', name))
})
afterAll(() => rmSync(place, { recursive: true, force: true }))

const files = (under: string): string[] =>
  readdirSync(under, { recursive: true, encoding: 'utf8' })
    .map((name) => join(under, name))
    .filter((path) => statSync(path).isFile())

function write(name: string, text: string): string {
  const path = join(place, name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
  return path
}

test('is under 50 KB unpacked, and depends on a handful of packages', () => {
  const bytes = files(folder).reduce((sum, path) => sum + statSync(path).size, 0)
  process.stdout.write(`client: ${bytes} bytes unpacked\n`)
  expect(bytes).toBeLessThan(MOST_BYTES)
  const { dependencies } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { dependencies: object }
  expect(Object.keys(dependencies).length).toBeLessThanOrEqual(4)
})

test('a store of a server throws the errors of the client', () => {
  const script = write(
    'store.mjs',
    `import { StoreError } from '@keyturn/client'
     import { vaultStore } from '@keyturn/stores/vault'
     const store = vaultStore({ address: 'http://127.0.0.1:1', path: 'key', token: () => 'some-token' })
     console.log(await store.read().catch((error) => error instanceof StoreError && error.code))`,
  )
  expect(execFileSync(process.execPath, [script], { encoding: 'utf8' })).toBe('unreachable\n')
})

test('runs in plain Node, and its types are whole', () => {
  const script = write(
    'use.mjs',
    `import { createClient } from '@keyturn/client'
     import { fileStore } from '@keyturn/client/node'
     const client = createClient({ store: fileStore('${place}/key.json'), credential: 'some-key', api: 'http://127.0.0.1:9' })
     console.log(await client.keyId())`,
  )
  expect(execFileSync(process.execPath, [script], { encoding: 'utf8' })).toBe('imported\n')
  write(
    'use.mts',
    `import { type Client, createClient, memoryStore } from '@keyturn/client'
     import { envFileStore } from '@keyturn/client/node'
     import { awsStore } from '@keyturn/stores/aws'
     import { kubernetesStore } from '@keyturn/stores/kubernetes'
     import { vaultStore } from '@keyturn/stores/vault'
     const client: Client = createClient({ store: envFileStore({ path: '.env', variable: 'A' }), api: 'http://127.0.0.1:9' })
     // @ts-expect-error there is no such option
     createClient({ store: memoryStore(), api: '', retries: 3 })
     await client.fetch('http://127.0.0.1:9')
     createClient({ store: awsStore({ secretId: 'key', region: 'eu-central-1' }), api: 'http://127.0.0.1:9' })
     createClient({ store: vaultStore({ path: 'key' }), api: 'http://127.0.0.1:9' })
     createClient({ store: kubernetesStore({ name: 'key' }), api: 'http://127.0.0.1:9' })`,
  )
  const options = { strict: true, noEmit: true, module: 'nodenext', target: 'es2023', types: ['node'], skipLibCheck: false }
  write('tsconfig.json', JSON.stringify({ compilerOptions: options, files: ['use.mts'] }))
  execFileSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', place], { stdio: 'inherit' })
})

describe('for browsers', () => {
  const bundle = async (): Promise<string> => {
    const entry = write('page.js', `export * from '@keyturn/client'`)
    const { outputFiles } = await build({
      entryPoints: [entry],
      bundle: true,
      platform: 'browser',
      format: 'iife',
      globalName: 'keyturn',
      write: false,
      logLevel: 'error',
    })
    return outputFiles[0]?.text ?? ''
  }

  test('there is no import of Node', async () => {
    expect(await bundle()).not.toMatch(/["']node:|require\(/)
  })

  test.skipIf(browserAt === undefined)('a page follows a rotation (needs chromium)', async () => {
    const provider = await Provider.start()
    const text = await bundle()
    // The page, and before the provider as any site would be: of its own origin.
    const server = createServer((request, response) => {
      if (request.url === '/')
        return void response.setHeader('content-type', 'text/html').end('<script src="/client.js"></script>')
      if (request.url === '/client.js') return void response.setHeader('content-type', 'text/javascript').end(text)
      void pass(provider.url, request, response)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const browser = await openBrowser()
    try {
      const old = provider.issue()
      const next = provider.rotate(old)
      const page = await browser.newPage()
      await page.goto(url)
      const seen = await page.evaluate(`(${IN_PAGE})(${JSON.stringify({ token: old.token, url })})`)
      expect(seen).toEqual({ statuses: [200, 200], keyId: next.keyId, signs: true, webhook: 'msg_1' })
      expect(provider.acceptedKeys).toContain(next.keyId)
    } finally {
      await browser.close()
      server.closeAllConnections()
      server.close()
    }
  })
})

/** Run in the page. */
const IN_PAGE = `async ({ token, url }) => {
  const { createClient, memoryStore, webhookVerifier } = window.keyturn
  const client = createClient({ store: memoryStore(), credential: token, api: url + '/control' })
  const call = async () => (await client.fetch(url + '/v1/orders', { method: 'POST', body: 'a' })).status
  const first = await call()
  const keyId = token.split('_')[2]
  for (let i = 0; i < 200 && (await client.keyId()) === keyId; i++) await new Promise((resolve) => setTimeout(resolve, 50))
  const second = await call()
  let signature
  const signing = createClient({
    store: memoryStore(),
    credential: { kind: 'hmac-sha256', token },
    api: url,
    fetch: async (_, init) => {
      signature = new Headers(init.headers).get('signature')
      return new Response()
    },
  })
  await signing.fetch(url + '/v1/orders?a=b')
  const body = '{"a":1}'
  const secret = btoa('some secret of 24 bytes!')
  const at = String(Math.floor(Date.now() / 1000))
  const key = await crypto.subtle.importKey('raw', new TextEncoder().encode('some secret of 24 bytes!'), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
  const mac = new Uint8Array(await crypto.subtle.sign('HMAC', key, new TextEncoder().encode('msg_1.' + at + '.' + body)))
  const headers = { 'webhook-id': 'msg_1', 'webhook-timestamp': at, 'webhook-signature': 'v1,' + btoa(String.fromCharCode(...mac)) }
  const { id } = await webhookVerifier({ secret: 'whsec_' + secret }).verify(body, headers)
  return { statuses: [first, second], keyId: await client.keyId(), signs: /^sig=:/.test(signature), webhook: id }
}`

async function pass(
  to: string,
  request: import('node:http').IncomingMessage,
  response: import('node:http').ServerResponse,
): Promise<void> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  const { authorization } = request.headers
  const method = request.method ?? 'GET'
  const answer = await fetch(to + (request.url ?? ''), {
    method,
    headers: { ...(authorization === undefined ? {} : { authorization }), 'content-type': 'application/json' },
    ...(method === 'GET' || method === 'HEAD' ? {} : { body: Buffer.concat(chunks) }),
  })
  const notice = answer.headers.get(HEADERS.rotation)
  response.writeHead(answer.status, {
    'content-type': answer.headers.get('content-type') ?? 'text/plain',
    ...(notice === null ? {} : { [HEADERS.rotation]: notice }),
  })
  response.end(Buffer.from(await answer.arrayBuffer()))
}
