/** Addresses and CIDR blocks, IPv4 and IPv6, as a credential may be restricted to them. */
import { isIP } from 'node:net'

export interface AddressBlock {
  readonly address: string
  readonly family: 'ipv4' | 'ipv6'
  /** Nothing: the one address. */
  readonly prefix: number | undefined
}

/** @returns nothing for what is neither an address nor a block such as 192.0.2.0/24 or 2001:db8::/32 */
export function parseAddressBlock(text: string): AddressBlock | undefined {
  const [address = '', bits, ...rest] = text.split('/')
  const version = isIP(address)
  if (version === 0 || address.includes('%') || rest.length > 0) return undefined
  const family = version === 4 ? 'ipv4' : 'ipv6'
  if (bits === undefined) return { address, family, prefix: undefined }
  const prefix = Number(bits)
  return /^\d{1,3}$/.test(bits) && prefix <= (version === 4 ? 32 : 128) ? { address, family, prefix } : undefined
}

/** The block of neighbours that an address stands in, as programs of one site mostly do: /24 of IPv4, /64 of IPv6. What is no address stays. */
export function addressRange(address: string): string {
  if (isIP(address) === 4) return `${address.split('.').slice(0, 3).join('.')}.0/24`
  if (isIP(address) !== 6) return address
  const [head = '', tail] = address.split('%')[0]?.split('::') ?? []
  const groups = head === '' ? [] : head.split(':')
  const missing = tail === undefined ? 0 : 8 - groups.length - (tail === '' ? 0 : tail.split(':').length)
  const first = [...groups, ...Array<string>(missing).fill('0')].slice(0, 4).map((group) => group.replace(/^0+(?=.)/, ''))
  return `${first.join(':')}::/64`
}
