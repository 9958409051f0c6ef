import { ENVIRONMENTS, KEY_STATES, tokenSha256 } from '@keyturn/contract'
import { createVerify, KeyCache } from '@keyturn/gateway'
import { describe, expect, test } from 'vitest'
import { type IssuedKey, issueKey, NOW } from './support.ts'

function holding(...keys: IssuedKey[]) {
  const cache = new KeyCache()
  for (const { record } of keys) cache.apply(record)
  return createVerify(cache, ['prod'])
}

describe('a known key', () => {
  test.each(KEY_STATES.filter((state) => state !== 'destroyed'))('in the state %s is accepted only when active', (state) => {
    const key = issueKey({ state })
    expect(holding(key)(key.token, NOW).outcome).toBe(state === 'active' ? 'accepted' : 'refused')
  })

  test('is accepted from notBefore on and until expiresAt', () => {
    const key = issueKey({ notBefore: new Date(NOW).toISOString(), expiresAt: new Date(NOW + 10).toISOString() })
    const verify = holding(key)
    const at = (now: number) => {
      const decision = verify(key.token, now)
      return decision.outcome === 'refused' ? decision.reason : decision.outcome
    }
    expect([at(NOW - 1), at(NOW), at(NOW + 9), at(NOW + 10)]).toEqual(['not-yet-valid', 'accepted', 'accepted', 'expired'])
  })

  test('of another environment is refused and named so, even when it is active', () => {
    const keys = ENVIRONMENTS.map((environment) => issueKey({ environment }))
    const verify = holding(...keys)
    expect(keys.map(({ token }) => verify(token, NOW).outcome)).toEqual(['wrong-environment', 'wrong-environment', 'accepted'])
  })

  test('imported in a format of its own is found by its SHA-256 alone', () => {
    const token = 'sk_live_4eC39HqLyjWDarjtT1zdp7dc'
    const key = issueKey({ verifier: { kind: 'bearer', sha256: tokenSha256(token) } })
    expect(holding(key)(token, NOW).outcome).toBe('accepted')
  })
})

describe('an unknown token', () => {
  const verify = holding(issueKey())

  test('is no more told from a typo than from nonsense', () => {
    const { token } = issueKey()
    const typo = `${token.slice(0, -1)}${token.endsWith('0') ? '1' : '0'}`
    for (const none of [token, typo, '']) expect(verify(none, NOW)).toEqual({ outcome: 'unknown' })
  })

  test('with a right key id and a wrong secret is unknown', () => {
    const key = issueKey()
    const { token } = issueKey({ keyId: key.record.keyId })
    expect(holding(key)(token, NOW).outcome).toBe('unknown')
  })

  test('longer than 512 characters is refused unread, even one that is known', () => {
    const token = 'x'.repeat(513)
    const key = issueKey({ verifier: { kind: 'bearer', sha256: tokenSha256(token) } })
    expect(holding(key)(token, NOW)).toEqual({ outcome: 'unknown' })
    const longest = 'x'.repeat(512)
    const other = issueKey({ verifier: { kind: 'bearer', sha256: tokenSha256(longest) } })
    expect(holding(other)(longest, NOW).outcome).toBe('accepted')
  })
})
