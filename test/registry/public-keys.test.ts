import { generateKeyPairSync, type KeyObject } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { parsePublicKey } from '../../registry/public-keys.ts'

const pem = ({ publicKey }: { publicKey: KeyObject }): string => String(publicKey.export({ type: 'spki', format: 'pem' }))
const privatePem = String(generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }))
const base64 = (hex: string): string => Buffer.from(hex, 'hex').toString('base64')

test('a public key is the same in each of its forms', () => {
  for (let i = 0; i < 50; i++) {
    const { publicKey } = generateKeyPairSync('ed25519')
    const { x = '' } = publicKey.export({ format: 'jwk' })
    const raw = Buffer.from(x, 'base64url').toString('base64')
    for (const text of [x, raw, `${raw}\n`, pem({ publicKey })]) expect(parsePublicKey(text)).toBe(raw)
  }
})

test('the public key of RFC 8032, section 7.1, test 1', () => {
  const raw = base64('d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a')
  expect(parsePublicKey(raw)).toBe(raw)
})

describe('what is no public key is refused, with what is wrong with it', () => {
  const FORM = /must be 32 bytes in base64/
  const HALF = /public half of an Ed25519 pair/
  test.each([
    ['nothing', '', FORM],
    ['a word', 'my-key', FORM],
    ['31 bytes', Buffer.alloc(31, 7).toString('base64'), FORM],
    ['33 bytes', Buffer.alloc(33, 7).toString('base64'), FORM],
    ['64 bytes: a private key with its public half', Buffer.alloc(64, 7).toString('base64'), FORM],
    ['hexadecimal', 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a', FORM],
    ['the alphabets mixed', `${'-'.repeat(42)}A=`, FORM],
    ['bits that stand for nothing', `${'A'.repeat(42)}B=`, FORM],
    ['a private key in PEM', privatePem, /is a private key: it never leaves the client/],
    ['a key of X25519', pem(generateKeyPairSync('x25519')), /must be an Ed25519 key; this one is x25519/],
    ['a key of P-256', pem(generateKeyPairSync('ec', { namedCurve: 'P-256' })), /must be an Ed25519 key; this one is ec/],
    ['a certificate', '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----', HALF],
    ['PEM that holds nothing', '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----', HALF],
  ])('%s', (_, text, why) => {
    expect(() => parsePublicKey(text)).toThrow(why)
  })

  test.each([
    ['the neutral point', `01${'00'.repeat(31)}`],
    ['the neutral point with a sign', `01${'00'.repeat(30)}80`],
    ['order 2', `ec${'ff'.repeat(30)}7f`],
    ['order 4', '00'.repeat(32)],
    ['order 4, the other', `${'00'.repeat(31)}80`],
    ['order 8', '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05'],
    ['order 8, another', 'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a'],
    ['not below the prime', `ed${'ff'.repeat(30)}7f`],
    ['the prime and 1', `ee${'ff'.repeat(30)}7f`],
    ['not on the curve', `02${'00'.repeat(31)}`],
  ])('a point that is %s', (_, hex) => {
    expect(() => parsePublicKey(base64(hex))).toThrow('is no point of the curve')
  })
})
