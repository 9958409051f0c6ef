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
  const [head = '', tail] = address.toLowerCase().split('%')[0]?.split('::') ?? []
  const [before = [], after = []] = [head, tail ?? ''].map((groups) => (groups === '' ? [] : groups.split(':')))
  // An IPv4 address at the end stands for two groups.
  const missing = tail === undefined ? 0 : 8 - before.length - after.length - (tail.includes('.') ? 1 : 0)
  const groups = [...before, ...Array<string>(missing).fill('0'), ...after]
  const first = groups.slice(0, 4).map((group) => group.replace(/^0+(?=.)/, ''))
  return `${first.join(':')}::/64`
}

/** Whose address it is, as far as it shows: of IPv6 the first 64 bits, which are one customer's; IPv4 inside IPv6 is IPv4. What is no address stays. */
export function networkOf(address: string): string {
  const [, ipv4] = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address) ?? []
  return ipv4 ?? (isIP(address) === 6 ? addressRange(address) : address)
}
