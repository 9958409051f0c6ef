/** Scopes by path, where proxy and API may not agree on what a path is. */
import { posix } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createScopesOf, parseRoute } from '../../gateway/src/routes.ts'

const { normalize } = posix
const routes = ['/orders=orders:read', 'POST /orders=orders:write', 'GET /reports/Daily/=reports:read'].map((text) => {
  const route = parseRoute(text)
  if (route === undefined) throw new Error(text)
  return route
})
const scopesOf = createScopesOf(['api:use'], routes)
const asked = (path: string, method = 'DELETE', headers = {}): string => scopesOf(path, { method, headers }).slice(1).join(' ')

describe('a route', () => {
  test('asks for its scope, beside those of any request, of every path that begins so', () => {
    expect(scopesOf('/', { method: 'GET', headers: {} })).toEqual(['api:use'])
    for (const path of ['/orders', '/orders/', '/orders/7?x=/status', '/orders.json', '/ordersABC'])
      expect(asked(path)).toBe('orders:read')
    for (const path of ['/', '/status', '/v1/orders', '/order', '/status?next=/orders', '/status#/orders'])
      expect(asked(path)).toBe('')
  })

  test('is of its method alone; GET is of HEAD, too, and where the method may be overridden it is of any', () => {
    expect([asked('/orders', 'POST'), asked('/orders', 'GET')]).toEqual(['orders:read orders:write', 'orders:read'])
    expect(['GET', 'HEAD', 'PUT'].map((method) => asked('/reports/daily', method))).toEqual(['reports:read', 'reports:read', ''])
    for (const field of ['x-http-method-override', 'x-method-override', 'x-http-method'])
      expect(asked('/orders', 'PUT', { [field]: ['POST'] })).toBe('orders:read orders:write')
  })

  test.each([
    ...[
      '//status',
      '/./status',
      '/x/../status',
      '/..',
      '/%73tatus',
      '/%2573tatus',
      '/x%2fstatus',
      '/x%5Cstatus',
      '\\status',
      '/;a=b/status',
    ],
    ...['/status;a=b', '/x/%2e%2e/status', '/%00status', '/stat\tus', '/status%', '/status%zz'],
  ])('in doubt is asked for, whichever it is: %s', (path) => {
    expect(asked(path, 'GET')).toBe('orders:read reports:read')
  })

  test.each([
    '/status',
    '/',
    '/files/my%20report.pdf',
    '/files/caf%C3%A9',
    '/.well-known/x',
    '/a/...',
    '/x@y:z,=+',
    '/accounts/a%40b%2Bc/',
  ])('is not what is plainly another path: %s', (path) => {
    expect(asked(path, 'GET')).toBe('')
  })
})

/** APIs, each with a way of its own to read a path. */
const READERS: readonly ((path: string) => string)[] = [
  (path) => path,
  (path) => decodeURIComponent(path),
  (path) => new URL(path, 'http://api').pathname,
  (path) => decodeURIComponent(new URL(path, 'http://api').pathname),
  (path) => normalize(path),
  (path) => normalize(decodeURIComponent(path)),
  (path) => normalize(decodeURIComponent(path).replaceAll(/;[^/]*/g, '')),
  (path) => normalize(path.replaceAll(/;[^/]*/g, '')),
]

test('property: whatever an API might read as a path that begins so needs the scope', () => {
  const part = fc.constantFrom(
    ...['/', '//', '/../', '/./', '..', '.', 'orders', 'ORDERS', 'status', '%2f', '%2e', '%6f', 'rders', ';a=b', 'a', '%5C'],
  )
  const written = fc.array(part, { maxLength: 10 }).map((parts) => `/x/${parts.join('')}`)
  const needed = createScopesOf(
    [],
    [
      { path: '/orders', scope: 'one' },
      { path: '/a/orders', scope: 'two' },
      { path: '/x/orders', scope: 'three' },
    ],
  )
  const property = fc.property(written, (path) => {
    const asking = needed(path, { method: 'GET', headers: {} })
    for (const read of READERS) {
      const plain = read(path).toLowerCase().replaceAll('\\', '/').replaceAll(/\/+/g, '/')
      if (plain.startsWith('/orders')) expect([path, plain, asking]).toEqual([path, plain, expect.arrayContaining(['one'])])
      if (plain.startsWith('/a/orders')) expect([path, plain, asking]).toEqual([path, plain, expect.arrayContaining(['two'])])
      if (plain.startsWith('/x/orders')) expect([path, plain, asking]).toEqual([path, plain, expect.arrayContaining(['three'])])
    }
  })
  fc.assert(property, { numRuns: 20_000 })
})
