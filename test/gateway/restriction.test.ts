/** Where a key may be used from, and with which methods: the cases that no request of the shared suite brings. */
import { expect, test } from 'vitest'
import { addressList, listed, Restriction } from '../../gateway/src/restriction.ts'

test('who may GET may HEAD; no method at all is none that is allowed', () => {
  const reads = new Restriction({ methods: ['GET'] })
  expect(['GET', 'HEAD', 'POST', 'get', undefined].map((method) => reads.allowsMethod(method))).toEqual([
    true,
    true,
    false,
    false,
    false,
  ])
  const writes = new Restriction({ methods: ['POST'] })
  expect(['GET', 'HEAD', 'POST'].map((method) => writes.allowsMethod(method))).toEqual([false, false, true])
  expect(new Restriction({ addresses: ['::1'] }).allowsMethod(undefined)).toBe(true)
})

test('numbers are required where it is said, also in a word that is not known', () => {
  const required = ['required', 'strictly'].map((sequence) => new Restriction({ sequence }).requiresSequence)
  expect([...required, new Restriction({ methods: ['GET'] }).requiresSequence]).toEqual([true, true, false])
})

test('a list that can not be read allows nobody; no list allows everybody, also from nowhere', () => {
  for (const addresses of [['192.0.2.0/33'], ['192.0.2.1', 'example.com'], []]) {
    const closed = new Restriction({ addresses })
    expect(['192.0.2.1', '::1', undefined].map((address) => closed.allowsAddress(address))).toEqual([false, false, false])
  }
  expect([undefined, 'nonsense'].map((address) => new Restriction({}).allowsAddress(address))).toEqual([true, true])
})

test('IPv4 and IPv6 are kept apart, but for IPv4 inside IPv6', () => {
  const list = addressList(['192.0.2.0/24', '2001:db8::/32', '198.51.100.7'])
  for (const address of ['192.0.2.255', '::ffff:192.0.2.1', '2001:db8:ffff::1', '198.51.100.7'])
    expect([address, listed(list, address)]).toEqual([address, true])
  for (const address of ['192.0.3.1', '::ffff:192.0.3.1', '2001:db9::1', '::192.0.2.1', '198.51.100.8', '', 'x', undefined])
    expect([address, listed(list, address)]).toEqual([address, false])
})
