/** From where, and with which methods, the keys of a credential may be used: the key record's `allow`, ready to be asked. */
import { BlockList, isIP } from 'node:net'
import type { Allow } from '@keyturn/contract'
import { cleanAddress } from './sources.ts'

const familyOf = (address: string): 'ipv4' | 'ipv6' | undefined =>
  ({ 4: 'ipv4', 6: 'ipv6' })[isIP(address)] as 'ipv4' | 'ipv6' | undefined

/**
 * @param blocks addresses and CIDR blocks, IPv4 and IPv6
 * @throws RangeError that names the one that is neither
 */
export function addressList(blocks: readonly string[]): BlockList {
  const list = new BlockList()
  for (const block of blocks) {
    const [address = '', prefix, ...rest] = block.split('/')
    const family = familyOf(address)
    const bits = prefix === undefined ? undefined : Number(prefix)
    if (family === undefined || rest.length > 0 || (bits !== undefined && !(bits <= (family === 'ipv4' ? 32 : 128)))) {
      throw new RangeError(`"${block}" is neither an address nor a CIDR block such as 192.0.2.0/24 or 2001:db8::/32`)
    }
    if (bits === undefined) list.addAddress(address, family)
    else list.addSubnet(address, bits, family)
  }
  return list
}

/** IPv4 inside IPv6 counts as IPv4. What is no address is on no list. */
export function listed(list: BlockList, address: string | undefined): boolean {
  const cleaned = cleanAddress(address)
  const family = cleaned === undefined ? undefined : familyOf(cleaned)
  return cleaned !== undefined && family !== undefined && list.check(cleaned, family)
}

export class Restriction {
  readonly #addresses: BlockList | undefined
  readonly #methods: readonly string[] | undefined

  /** A list that can not be read allows nobody: the rest of its event, a revocation perhaps, must count all the same. */
  constructor({ addresses, methods }: Allow) {
    try {
      this.#addresses = addresses === undefined ? undefined : addressList(addresses)
    } catch {
      this.#addresses = new BlockList()
    }
    this.#methods = methods
  }

  allowsAddress(address: string | undefined): boolean {
    return this.#addresses === undefined || listed(this.#addresses, address)
  }

  /** Who may GET may HEAD. A method that nobody told us is not allowed. */
  allowsMethod(method: string | undefined): boolean {
    if (this.#methods === undefined) return true
    return method !== undefined && (this.#methods.includes(method) || (method === 'HEAD' && this.#methods.includes('GET')))
  }
}
