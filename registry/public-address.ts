/**
 * Where clients may have us send something: to public addresses. An address that leads back into our own network would let whoever
 * names it ask what only we can ask (server-side request forgery).
 */
import type { AddressBlock } from '@keyturn/contract'
import ipaddr from 'ipaddr.js'

const WORDS: Readonly<Record<string, string>> = {
  unspecified: 'an unspecified address',
  broadcast: 'a broadcast address',
  multicast: 'a multicast address',
  loopback: 'a loopback address',
  linkLocal: 'a link-local address',
  private: 'a private address',
  uniqueLocal: 'a private address',
  carrierGradeNat: "a carrier's private address",
}
/** Where Azure answers its machines; it lies among public addresses. */
const WIRE_SERVER = '168.63.129.16'
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3')

type Parsed = ipaddr.IPv4 | ipaddr.IPv6

export const isAmong = (blocks: readonly AddressBlock[], address: string): boolean => inBlocks(blocks, ipaddr.process(address))

const inBlocks = (blocks: readonly AddressBlock[], parsed: Parsed): boolean =>
  blocks.some((block) => {
    const range = ipaddr.parse(block.address)
    const bits = block.prefix ?? (block.family === 'ipv4' ? 32 : 128)
    return range.kind() === parsed.kind() && parsed.match(range as never, bits)
  })

/**
 * Why nothing is sent to an address; nothing for one that is public or among `allow`. An IPv4 address that is written as IPv6 is what it is.
 * @param address an IP address
 */
export function whyNotPublic(address: string, allow: readonly AddressBlock[]): string | undefined {
  const parsed: Parsed = ipaddr.process(address)
  if (inBlocks(allow, parsed)) return undefined
  const range: string = parsed.range()
  if (range !== 'unicast') return WORDS[range] ?? 'a reserved address'
  if (parsed.toString() === WIRE_SERVER) return "an address of a cloud's own services"
  return parsed.kind() === 'ipv6' && !parsed.match(GLOBAL_UNICAST as never) ? 'a reserved address' : undefined
}
