import { expect, test } from 'vitest'
import { readAgentConfig, readFirst } from '../../../client/src/agent.ts'

const LEAST = { api: 'https://keys.example.com/', store: { file: '/var/lib/shop/key.json' } }

test('the least that is needed, and what follows unless it is given', () => {
  expect(readAgentConfig(LEAST)).toEqual({
    api: 'https://keys.example.com',
    kind: 'bearer',
    store: { file: '/var/lib/shop/key.json' },
    files: [],
    program: { timeoutMs: 60_000 },
    check: { usedWithinMs: 300_000, withinMs: 60_000 },
    intervalMs: 60_000,
  })
})

test('all that can be given', () => {
  const config = readAgentConfig({
    ...LEAST,
    credentialId: 'crd_0123456789abcdef',
    store: {
      vault: { address: 'https://vault.example.com', mount: 'kv', path: 'shop/key', tokenFile: '/run/token', field: 'key' },
    },
    firstKeyFile: '/etc/shop/first-key',
    files: [{ path: '/run/shop/key', mode: '0640' }],
    program: { signal: 'SIGHUP', pidFile: '/run/shop.pid', timeout: '90s' },
    check: { used: false, run: ['curl', '-f', 'http://127.0.0.1/healthz'], within: '2m' },
    interval: '30s',
  })
  expect(config).toMatchObject({
    files: [{ path: '/run/shop/key', mode: 0o640 }],
    program: { signal: { name: 'SIGHUP', pidFile: '/run/shop.pid' }, timeoutMs: 90_000 },
    check: { run: ['curl', '-f', 'http://127.0.0.1/healthz'], withinMs: 120_000 },
    intervalMs: 30_000,
  })
  expect(config.check).not.toHaveProperty('usedWithinMs')
})

test.each([
  [{ ...LEAST, api: undefined }, 'api: is a text'],
  [{ ...LEAST, api: 'keys.example.com' }, 'api: is an address'],
  [{ ...LEAST, api: 'https://user:PRECIOUS@keys.example.com' }, 'api: holds a password'],
  [{ ...LEAST, token: 'PRECIOUS' }, 'token: is not known here'],
  [{ ...LEAST, store: {} }, 'store: is one of file, env, vault, aws, kubernetes'],
  [{ ...LEAST, store: { file: '/a', aws: {} } }, 'store: is one of'],
  [{ ...LEAST, store: { file: '/a', variable: 'KEY' } }, 'store.variable: has a place beside env alone'],
  [{ ...LEAST, store: { env: '/a/.env' } }, 'store.variable: is a text'],
  [{ ...LEAST, store: { vault: { mount: 'kv' } } }, 'store.vault.path: is missing'],
  [{ ...LEAST, store: { aws: { secretId: 7 } } }, 'store.aws.secretId: is a text'],
  [{ ...LEAST, store: { vault: { path: 'a', token: 'PRECIOUS' } } }, 'store.vault.token: is not known here'],
  [{ ...LEAST, kind: 'rsa' }, 'kind: is one of bearer, hmac-sha256, ed25519'],
  [{ ...LEAST, kind: 'ed25519', store: { env: '/a/.env', variable: 'KEY' } }, 'store.env: holds tokens'],
  [{ ...LEAST, firstKeyFile: '/a', firstClaimFile: '/b' }, 'firstClaimFile: has no place beside firstKeyFile'],
  [{ ...LEAST, claim: 'PRECIOUS' }, 'claim: is not known here'],
  [{ ...LEAST, files: ['/run/key'] }, 'files[0]: is missing, or has no fields'],
  [{ ...LEAST, files: [{ path: '/run/key', mode: '0644' }] }, 'files[0].mode: would let everybody'],
  [{ ...LEAST, files: [{ path: '/run/key', mode: 644 }] }, 'files[0].mode: is a text of octal digits'],
  [{ ...LEAST, program: { run: 'systemctl restart shop' } }, 'program.run: is a list'],
  [{ ...LEAST, program: { signal: 'SIGKILL', pidFile: '/a' } }, 'program.signal: is one of'],
  [{ ...LEAST, program: { signal: 'SIGHUP' } }, 'program: signal and pidFile go together'],
  [{ ...LEAST, program: { run: ['a'], signal: 'SIGHUP', pidFile: '/a' } }, 'program: either runs'],
  [{ ...LEAST, check: { used: 'soon' } }, 'check.used: is a time like'],
  [{ ...LEAST, interval: '0s' }, 'interval: is a time like'],
  ['a text', 'is missing, or has no fields'],
])('names the field that is wrong, and quotes none: %o', (config, message) => {
  expect(() => readAgentConfig(config)).toThrow(message)
  expect(() => readAgentConfig(config)).not.toThrow('PRECIOUS')
})

const CODE = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ'
const JWK = { kty: 'OKP', crv: 'Ed25519', x: 'eHh4', d: 'PRECIOUS' }

test('the first key or claim, as files hold it', () => {
  const token = 'kt_prod_0123456789abcdef_x'
  expect(readFirst({ kind: 'hmac-sha256' }, { key: `${token}\n` })).toEqual({ firstKey: { kind: 'hmac-sha256', token } })
  expect(readFirst({ kind: 'ed25519' }, { key: JSON.stringify({ ...JWK, kid: '0123456789abcdef' }) })).toEqual({
    firstKey: { kind: 'ed25519', keyId: '0123456789abcdef', privateKey: JWK },
  })
  for (const claim of [CODE, `https://keys.example.com/v1/claims/${CODE}\n`])
    expect(readFirst({ kind: 'bearer' }, { claim })).toEqual({ firstClaim: CODE })
  expect(readFirst({ kind: 'bearer' }, {})).toEqual({})
})

test.each([
  ['bearer', { key: 'two PRECIOUS words' }, 'the first key: the key holds a space'],
  ['hmac-sha256', { key: 'PRECIOUS' }, 'the first key: give the keyId'],
  ['ed25519', { key: 'PRECIOUS' }, 'the first key: it is no private JWK'],
  ['ed25519', { key: JSON.stringify(JWK) }, 'with the id of the key as "kid"'],
  ['bearer', { claim: 'https://keys.example.com/claim#PRECIOUS' }, 'the first claim: there is no claim code in it'],
] as const)('a first key or claim that is none is said, and not quoted: %s %o', (kind, texts, message) => {
  expect(() => readFirst({ kind }, texts)).toThrow(message)
  expect(() => readFirst({ kind }, texts)).not.toThrow('PRECIOUS')
})
