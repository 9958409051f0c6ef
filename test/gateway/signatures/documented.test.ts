/** What docs/signing.md tells a client's developer to type is accepted as it stands there. */
import { execFile, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { promisify } from 'node:util'
import { keyturn } from '@keyturn/gateway/node'
import { expect, onTestFinished, test } from 'vitest'
import { listen, shut } from '../world.ts'
import { openOne } from './one.ts'
import { issueHmac } from './signing.ts'

const text = readFileSync(new URL('../../../docs/signing.md', import.meta.url), 'utf8')
const scripts = [...text.matchAll(/```sh\n(.*?)```/gs)].map(([, script = '']) => script)
const possible = ['bash', 'openssl', 'curl'].every((program) => spawnSync(program, ['--help']).error === undefined)

test.skipIf(!possible)('both formats, with openssl and curl', async () => {
  const key = issueHmac()
  const one = openOne([key])
  Object.defineProperty(one.clock, 'now', { get: Date.now })
  const gateway = { authenticate: one.authenticate, refusedUpstream: () => undefined, follow: () => () => undefined }
  const server = createServer(keyturn({ gateway }, (_, response) => response.end('in')))
  onTestFinished(() => shut(server))
  const { origin } = await listen(server)
  const env = { ...process.env, KEY_ID: key.record.keyId, TOKEN: key.token }
  for (const script of scripts) {
    const { stdout } = await promisify(execFile)('bash', ['-ec', script.replaceAll('https://api.example.com', origin)], { env })
    expect(stdout).toBe('in')
  }
  expect(one.outcomes).toEqual(['accepted', 'accepted'])
})
