import { formatSelector, isEmptySelector, parseSelector, scopeCovers, scopesTouch, selects } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

const credential = {
  clientId: 'cli_0123456789abcdef',
  environment: 'prod',
  scopes: ['read:prices', 'trade:orders'],
  labels: { team: 'rates' },
}

describe('a selector', () => {
  test.each([
    ['environment=prod', true],
    ['environment=dev', false],
    ['environment=dev,prod', true],
    ['client=cli_0123456789abcdef environment=prod', true],
    ['client=cli_fedcba9876543210', false],
    ['scope=trade:*', true],
    ['scope=trade', false],
    ['scope=admin:*,read:prices', true],
    ['scope=*', true],
    ['label.team=rates', true],
    ['label.team=fx', false],
    ['label.desk=rates', false],
    ['environment=prod scope=trade:* label.team=rates', true],
    ['', true],
  ])('%s: %s', (text, expected) => {
    expect(selects(parseSelector(text), credential)).toBe(expected)
  })

  test('a pattern selects whoever can do anything that it covers', () => {
    expect(selects({ scope: 'trade:write' }, { ...credential, scopes: ['trade:*'] })).toBe(true)
    expect(scopeCovers('trade:*', 'trade')).toBe(true)
    expect(scopeCovers('trade:*', 'trades')).toBe(false)
    expect(scopesTouch('trade:a', 'trade:b')).toBe(false)
  })

  test.each([
    'prod',
    'environment=',
    'environment=staging',
    'environment=prod environment=dev',
    'colour=red',
    'scope=Trade:*',
    'client=acme',
    'label.=x',
    'label.Team=x',
    'scope=a,,b',
  ])('refuses %s and says what one looks like', (text) => {
    expect(() => parseSelector(text)).toThrow(/write client=cli_/)
  })

  test('what is formatted is read as the same', () => {
    const scope = fc.constantFrom('*', 'trade:*', 'read:prices', 'admin')
    const name = fc.constantFrom('team', 'desk', 'a/b')
    const selector = fc.record(
      {
        environment: fc.constantFrom('dev', 'test', 'prod'),
        scope: fc.oneof(scope, fc.uniqueArray(scope, { minLength: 2 })),
        labels: fc.dictionary(name, fc.stringMatching(/^[a-z0-9]{1,8}$/), { minKeys: 1, noNullPrototype: true }),
      },
      { requiredKeys: [], noNullPrototype: true },
    )
    fc.assert(
      fc.property(selector, (given) => {
        expect(parseSelector(formatSelector(given))).toEqual(given)
      }),
    )
  })

  test('one with nothing in it is known as such', () => {
    expect(isEmptySelector(parseSelector(' '))).toBe(true)
    expect(isEmptySelector({ labels: {} })).toBe(true)
    expect(isEmptySelector({ environment: 'prod' })).toBe(false)
  })
})
