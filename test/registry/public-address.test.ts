import { parseAddressBlock } from '@keyturn/contract'
import { describe, expect, test } from 'vitest'
import { type Contact, contactIdOf, contactText, flawsOfContacts } from '../../registry/contacts.ts'
import { isAmong, whyNotPublic } from '../../registry/public-address.ts'

const block = (text: string) => parseAddressBlock(text) ?? expect.fail(text)

describe('an address', () => {
  test.each([
    ['127.0.0.1', 'loopback'],
    ['127.255.255.254', 'loopback'],
    ['::1', 'loopback'],
    ['0.0.0.0', 'unspecified'],
    ['::', 'unspecified'],
    ['10.0.0.1', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.1.1', 'private'],
    ['169.254.169.254', 'link-local'],
    ['fe80::1', 'link-local'],
    ['fd00:ec2::254', 'private'],
    ['100.100.100.200', "carrier's private"],
    ['168.63.129.16', "cloud's own"],
    ['192.0.0.192', 'reserved'],
    ['224.0.0.1', 'multicast'],
    ['255.255.255.255', 'broadcast'],
    ['240.0.0.1', 'reserved'],
    ['::ffff:127.0.0.1', 'loopback'],
    ['::ffff:a9fe:a9fe', 'link-local'],
    ['64:ff9b::7f00:1', 'reserved'],
    ['2002:7f00:1::', 'reserved'],
    ['2001::1', 'reserved'],
    ['fec0::1', 'reserved'],
    ['::127.0.0.1', 'loopback'],
    ['4000::1', 'reserved'],
  ])('%s is not public: %s', (address, why) => {
    expect(whyNotPublic(address, [])).toContain(why)
  })

  test.each(['8.8.8.8', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '::ffff:8.8.8.8', '168.63.129.17'])(
    '%s is public',
    (address) => {
      expect(whyNotPublic(address, [])).toBeUndefined()
    },
  )

  test('what is allowed may be called, in whatever way it is written, and nothing beside it', () => {
    const allow = [block('10.1.0.0/16'), block('::1')]
    expect(['10.1.2.3', '::ffff:10.1.2.3', '::1'].map((address) => whyNotPublic(address, allow))).toEqual([
      undefined,
      undefined,
      undefined,
    ])
    expect(['10.2.0.1', '127.0.0.1', '::2'].every((address) => whyNotPublic(address, allow) !== undefined)).toBe(true)
    expect(isAmong(allow, '8.8.8.8')).toBe(false)
  })
})

describe('a contact', () => {
  const email = (address: string): Contact => ({ channel: 'email', address })
  const webhook = (url: string): Contact => ({ channel: 'webhook', url })
  const flaw = (contact: Contact, allow: string[] = []) => flawsOfContacts([contact], allow.map(block))[0]

  test.each(['ops@acme.example', "o'brien+keys@sub.acme.example", 'a@b.co'])('can be %s', (address) => {
    expect(flaw(email(address))).toBeUndefined()
  })
  test.each([
    ['ops@acme.example\r\nBcc: all@acme.example', 'line breaks'],
    ['ops@acme.example\n', 'line breaks'],
    ['ops\u2028@acme.example', 'line breaks'],
    ['Ops <ops@acme.example>', 'is not an e-mail address'],
    ['ops@acme.example, more@acme.example', 'is not an e-mail address'],
    ['"a b"@acme.example', 'is not an e-mail address'],
    ['ops@localhost', 'is not an e-mail address'],
    ['ops@[127.0.0.1]', 'is not an e-mail address'],
    ['o..ps@acme.example', 'is not an e-mail address'],
    ['@acme.example', 'is not an e-mail address'],
    [`${'a'.repeat(60)}@${'b.'.repeat(120)}example`, '254'],
  ])('can not be the e-mail address %j', (address, message) => {
    expect(flaw(email(address))).toEqual({ path: '/contacts/0/address', message: expect.stringContaining(message) })
  })
  test.each([
    ['https://[', 'is not a URL'],
    ['ftp://acme.example/', 'http or https'],
    ['https://me:secret@acme.example', 'a user or a password'],
    ['http://acme.example/hook', 'must begin with https'],
    ['https://127.0.0.1/hook', 'a loopback address'],
    ['https://localhost:8443/hook', 'a loopback address'],
    ['https://api.localhost./hook', 'a loopback address'],
    ['https://0x7f.1/', 'a loopback address'],
    ['https://2130706433/', 'a loopback address'],
    ['https://[::ffff:127.0.0.1]/', 'a loopback address'],
    ['https://169.254.169.254/latest/meta-data', 'a link-local address'],
  ])('can not be the webhook %s', (url, message) => {
    expect(flaw(webhook(url))).toEqual({ path: '/contacts/0/url', message: expect.stringContaining(message) })
  })
  test('is said by which path it is wrong, and may not come twice', () => {
    const good = email('ops@acme.example')
    expect(flawsOfContacts([good, webhook('https://10.0.0.1'), good], []).map(({ path }) => path)).toEqual([
      '/contacts/1/url',
      '/contacts/2/address',
    ])
  })
  test('may be on this machine by http where that is allowed', () => {
    expect(flaw(webhook('http://127.0.0.1:9/hook'), ['127.0.0.0/8'])).toBeUndefined()
    expect(flaw(webhook('http://10.0.0.1/hook'), ['127.0.0.0/8'])?.message).toContain('private')
  })
  test('G5: is called by its channel and host, and has a name that tells nothing of its address', () => {
    const hook = webhook('https://acme.example/hook?token=s3cr3t')
    expect([contactText(hook), contactText(email('jo@acme.example'))]).toEqual(['webhook acme.example', 'email acme.example'])
    expect(contactIdOf('cli_1', hook)).toMatch(/^con_[0-9a-f]{16}$/)
    expect(contactIdOf('cli_1', hook)).toBe(contactIdOf('cli_1', { ...hook }))
    expect(contactIdOf('cli_2', hook)).not.toBe(contactIdOf('cli_1', hook))
  })
})
