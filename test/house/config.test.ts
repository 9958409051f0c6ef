import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { expect, test } from 'vitest'
import { ConfigError, loadConfig } from '../../infra/config.ts'

const flaws = (env: Record<string, string>): string => {
  try {
    loadConfig(env, ['fallback'])
  } catch (error) {
    if (error instanceof ConfigError) return error.message
  }
  return 'none'
}

const privatePem = ({ privateKey }: { privateKey: KeyObject }): string =>
  privateKey.export({ type: 'pkcs8', format: 'pem' }).toString()

test('the fallback of gateways: token and Ed25519 key, or neither; neither is ever repeated', () => {
  const key = privatePem(generateKeyPairSync('ed25519'))
  const token = { KEYTURN_GATEWAY_TOKEN: 'sixteen-or-more-characters' }
  expect(loadConfig({}, ['fallback']).fallback).toBeUndefined()
  expect(loadConfig({ ...token, KEYTURN_SIGNING_KEY: key }, ['fallback']).fallback).toMatchObject({
    gatewayToken: token.KEYTURN_GATEWAY_TOKEN,
  })
  expect(flaws(token)).toContain('KEYTURN_SIGNING_KEY: not set')
  expect(flaws({ KEYTURN_SIGNING_KEY: key })).toContain('KEYTURN_GATEWAY_TOKEN: not set')
  expect(flaws({ KEYTURN_GATEWAY_TOKEN: 'short', KEYTURN_SIGNING_KEY: key })).toContain('KEYTURN_GATEWAY_TOKEN: too short')
  const other = privatePem(generateKeyPairSync('x25519'))
  for (const wrong of [other, 'no key']) {
    const text = flaws({ ...token, KEYTURN_SIGNING_KEY: wrong })
    expect(text).toContain('KEYTURN_SIGNING_KEY: no Ed25519 private key in PEM')
    expect(text).not.toContain(wrong)
  }
})

test('where clients sign in is an https address, with the rotation where that belongs', () => {
  const signInUrl = (url: string) => loadConfig({ KEYTURN_SIGN_IN_URL: url }, ['delivery']).delivery.signInUrl
  for (const url of ['https://portal.example.com', 'https://portal.example.com/keys/{rotationId}?from=mail#{rotationId}'])
    expect(signInUrl(url)).toBe(url)
  for (const url of [
    'http://portal.example.com',
    'https://{rotationId}.example.com',
    'https://portal.example.com/{keyId}',
    'https:///x',
    'https://a b',
  ])
    expect(() => signInUrl(url)).toThrow('KEYTURN_SIGN_IN_URL: not usable')
})
