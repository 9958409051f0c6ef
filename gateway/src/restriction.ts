/** From where, with which methods, and whether in order alone the keys of a credential may be used: the key record's `allow`, ready to be asked. */
import { BlockList } from 'node:net'
import { type Allow, parseAddressBlock } from '@keyturn/contract'
import { cleanAddress } from './sources.ts'

/**
 * @param blocks addresses and CIDR blocks, IPv4 and IPv6
 * @throws RangeError that names the one that is neither
 */
export function addressList(blocks: readonly string[]): BlockList {
  const list = new BlockList()
  for (const block of blocks) {
    const parsed = parseAddressBlock(block)
    if (parsed === undefined)
      throw new RangeError(`"${block}" is neither an address nor a CIDR block such as 192.0.2.0/24 or 2001:db8::/32`)
    if (parsed.prefix === undefined) list.addAddress(parsed.address, parsed.family)
    else list.addSubnet(parsed.address, parsed.prefix, parsed.family)
  }
  return list
}

/** IPv4 inside IPv6 counts as IPv4. What is no address is on no list. */
export function listed(list: BlockList, address: string | undefined): boolean {
  const cleaned = cleanAddress(address)
  return cleaned !== undefined && list.check(cleaned, cleaned.includes(':') ? 'ipv6' : 'ipv4')
}

export class Restriction {
  readonly #addresses: BlockList | undefined
  readonly #methods: readonly string[] | undefined
  /** Every signed request has to be numbered. */
  readonly requiresSequence: boolean

  /** A list that can not be read allows nobody: the rest of its event, a revocation perhaps, must count all the same. */
  constructor({ addresses, methods, sequence }: Allow) {
    try {
      this.#addresses = addresses === undefined ? undefined : addressList(addresses)
    } catch {
      this.#addresses = new BlockList()
    }
    this.#methods = methods
    // Also what a later version may ask for.
    this.requiresSequence = sequence !== undefined
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
