import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { createSealer } from '../../registry/sealing.ts'

const kek = randomBytes(32)
const sealer = createSealer(kek)

test('G5: a sealed text opens with the same key and the same associated data alone', () => {
  const sealed = sealer.seal('sécret', 'key-1')
  expect(createSealer(Buffer.from(kek)).open(sealed, 'key-1')).toBe('sécret')
  expect(() => sealer.open(sealed, 'key-2')).toThrow()
  expect(() => createSealer(randomBytes(32)).open(sealed, 'key-1')).toThrow('key-encryption key')
  expect(() => createSealer(randomBytes(32)).open({ ...sealed, kekId: createSealer(kek).seal('', '').kekId }, 'key-1')).toThrow()
})

test('G5: each byte that is changed shows', () => {
  const sealed = sealer.seal('secret', 'key-1')
  for (let i = 0; i < sealed.ciphertext.length; i++) {
    const ciphertext = Buffer.from(sealed.ciphertext)
    ciphertext[i] = (ciphertext[i] ?? 0) ^ 1
    expect(() => sealer.open({ ...sealed, ciphertext }, 'key-1')).toThrow()
  }
})

test('sealed twice, a text does not look the same', () => {
  const [a, b] = [sealer.seal('secret', 'key-1'), sealer.seal('secret', 'key-1')]
  expect(a.nonce.equals(b.nonce)).toBe(false)
  expect(a.ciphertext.equals(b.ciphertext)).toBe(false)
  expect(a.ciphertext.includes('secret')).toBe(false)
})

test('what is derived is the same whenever it is derived, and another for each purpose, id and key', () => {
  const code = sealer.derive('claim', 'a')
  expect(code).toMatch(/^[0-9A-Za-z]{43}$/)
  expect(createSealer(Buffer.from(kek)).derive('claim', 'a')).toBe(code)
  const others = [sealer.derive('webhook', 'a'), sealer.derive('claim', 'b'), createSealer(randomBytes(32)).derive('claim', 'a')]
  expect(new Set([code, ...others]).size).toBe(4)
})

test('a key-encryption key of another length is refused, without being shown', () => {
  expect(() => createSealer(Buffer.from('a short one'))).toThrow(/^a key-encryption key has 32 bytes$/)
})

test('two keys: the first one seals, both open, and each derives', () => {
  const next = randomBytes(32)
  const [old, ring, fresh] = [createSealer(kek), createSealer(next, kek), createSealer(next)]
  expect(ring.kekIds).toEqual([...fresh.kekIds, ...old.kekIds])
  const before = old.seal('secret', 'a')
  const after = ring.seal('secret', 'a')
  expect([ring.open(before, 'a'), ring.open(after, 'a'), fresh.open(after, 'a')]).toEqual(['secret', 'secret', 'secret'])
  expect(() => fresh.open(before, 'a')).toThrow(
    `sealed under key-encryption key ${old.kekIds[0]}, but this process holds ${fresh.kekIds[0]}`,
  )
  expect(ring.derivations('claim', 'a')).toEqual([fresh.derive('claim', 'a'), old.derive('claim', 'a')])
  expect(ring.derive('claim', 'a')).toBe(fresh.derive('claim', 'a'))
})
