/** Nonsense in the fields of a signature: never an exception, never accepted, nobody's key counted. */
import type { RequestInfo } from '@keyturn/gateway'
import { expect, test } from 'vitest'
import { randomOf, runsOf } from '../../support/runs.ts'
import { NOW } from '../support.ts'
import { bodyOf, CREATED, HOST, openOne, requestOf } from './one.ts'
import { COVERED, issueEd25519, issueHmac, signMessage, signPlain } from './signing.ts'

const { count, seed, text } = runsOf({ few: 2_000, many: 100_000 })
const PIECES = [
  ...[
    '"',
    '\\',
    '(',
    ')',
    ';',
    '=',
    ':',
    ',',
    ' ',
    '\t',
    '\0',
    '\n',
    '?1',
    '@0',
    '-',
    '.',
    '%',
    '*',
    'é',
    '\u{1f511}',
    '\ud800',
    "'",
  ],
  ...[
    '"@method"',
    '"@target-uri"',
    '"@authority"',
    '"@path"',
    '"@query"',
    '"content-digest"',
    '"constructor"',
    '"__proto__"',
    '"@status"',
  ],
  ...[
    'sig=',
    'sig=(',
    ';created=',
    ';nonce="x"',
    ';keyid="',
    ';alg="ed25519"',
    ';sf',
    ';expires=-1',
    '99999999999999999999',
    '1e9',
    'NaN',
  ],
  ...[':AAAA:', 'sha-256=:', 'sha-512', 'undefined', `${'A'.repeat(43)}=`, 'x'.repeat(3_000)],
]
const FIELDS = [
  ...['signature-input', 'signature', 'content-digest', 'x-key-id', 'x-timestamp', 'x-nonce', 'x-signature', 'x-sequence'],
  ...['authorization', 'x-api-key', 'content-length', 'transfer-encoding', 'user-agent', 'date'],
]

test(`spoilt signatures (${text})`, { timeout: 600_000 }, async () => {
  const random = randomOf(seed)
  const upTo = (most: number): number => Math.floor(random() * most)
  const any = <T>(of: readonly T[]): T => of[upTo(of.length)] as T
  const keys = [issueHmac(), issueEd25519()] as const
  const url = `https://${HOST}/orders?limit=5`
  const body = Buffer.from('body')
  const good = [
    await signMessage(keys[0], { url, created: CREATED }),
    await signMessage(keys[1], { url, created: CREATED, params: { tag: 'a', alg: 'ed25519' } }),
    await signMessage(keys[0], {
      url,
      created: CREATED,
      method: 'POST',
      body,
      headers: { date: 'now' },
      fields: [...COVERED, 'date', 'content-digest'],
    }),
    signPlain(keys[0], { url, timestamp: NOW }),
    signPlain(keys[0], { url, timestamp: NOW, method: 'POST', body, sequence: 5 }),
  ].map((fields) => new Set(Object.entries(fields).map(([name, value]) => `${name}: ${value}`)))

  const spoil = (value: string): string => {
    const at = upTo(value.length + 1)
    const until = at + upTo(random() < 0.5 ? 4 : 40)
    return `${value.slice(0, at)}${random() < 0.7 ? any(PIECES) : ''}${value.slice(random() < 0.5 ? at : until)}`
  }
  const one = openOne(keys)
  let tried = 0
  while (tried < count) {
    const base = any(good)
    const headers: Record<string, string | string[]> = {}
    for (const line of base) headers[line.slice(0, line.indexOf(': '))] = line.slice(line.indexOf(': ') + 2)
    const method = headers['content-digest'] !== undefined || headers['x-sequence'] !== undefined ? 'POST' : 'GET'
    for (let changes = 1 + upTo(3); changes > 0; changes--) {
      const name = random() < 0.8 ? any(Object.keys(headers)) : any(FIELDS)
      const value = headers[name]
      const kind = random()
      if (kind < 0.7) headers[name] = spoil(typeof value === 'string' ? value : any(PIECES))
      else if (kind < 0.8) delete headers[name]
      else if (kind < 0.9) headers[name] = typeof value === 'string' ? [value, any([value, any(PIECES)])] : []
      else headers[name] = any(PIECES).repeat(1 + upTo(20))
    }
    const request: Partial<RequestInfo> = {
      headers,
      method: random() < 0.95 ? method : any(['', 'get', 'POST\n', 'PUT']),
      url: random() < 0.95 ? '/orders?limit=5' : any(['', '/', '*', '/orders?limit=5#x', '/\u00e9', 'http://x/', '/%zz?']),
      authority: random() < 0.95 ? HOST : any(['', 'x:443', '[::1]:80', '\0', HOST.toUpperCase()]),
      body: method === 'POST' ? bodyOf(body) : undefined,
    }
    const answer = await one.authenticate(requestOf(request))
    tried += 1
    if (!answer.accepted) continue
    // Only when what was spoilt does not count: a field that nobody signed or that is not of this way of signing, or as it may be written, too.
    const names = [...base].map((line) => line.slice(0, line.indexOf(': ')))
    const added = Object.keys(headers).filter((name) => !names.includes(name))
    const never = ['authorization', 'x-api-key', 'x-sequence', names.includes('x-key-id') ? 'signature-input' : 'x-key-id']
    expect(added.filter((name) => never.includes(name))).toEqual([])
    const spoilt = Object.entries(headers).filter(([name, value]) => names.includes(name) && !base.has(`${name}: ${value}`))
    for (const [name, value] of spoilt) {
      const original = [...base].find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? ''
      const plain = (field: unknown) =>
        String(field)
          .toLowerCase()
          .replace(/[ \t]|=+:$/g, '')
      expect([name, plain(value)]).toEqual([name, plain(original)])
    }
  }
  expect(one.outcomes).toHaveLength(count)
  expect(new Set(one.outcomes)).toContain('malformed')
  expect(new Set(one.outcomes)).toContain('unknown')
  for (const { token } of keys) expect(one.logged()).not.toContain(token)
})
