/**
 * HMAC-SHA-256 (RFC 2104) with what the key contributes computed once, and two one-shot hashes for each text. `createHmac` sets up a context each time,
 * which takes more than twice as long as the hashing itself.
 */
import { hash, timingSafeEqual } from 'node:crypto'

const BLOCK = 64
const DIGEST = 32
/** Of all keys: what is in it is used up before anybody else can run. */
let scratch: Buffer = Buffer.alloc(BLOCK + 4_096)

const padded = (block: Buffer, pad: number, room: number): Buffer =>
  Buffer.concat([block.map((byte) => byte ^ pad)], BLOCK + room)

export type Check = (text: string, signature: Buffer) => boolean

/** @returns whether a signature is that of a text, which has ASCII characters alone */
export function createHmacCheck(key: Buffer): Check {
  const block = Buffer.alloc(BLOCK)
  const short = key.length > BLOCK ? hash('sha256', key, 'buffer') : key
  short.copy(block)
  const inner = padded(block, 0x36, 0)
  const outer = padded(block, 0x5c, DIGEST)
  return (text, signature) => {
    const length = BLOCK + text.length
    if (length > scratch.length) scratch = Buffer.alloc(length)
    inner.copy(scratch)
    scratch.write(text, BLOCK, 'latin1')
    // As text: a buffer for each would take longer than the hash.
    outer.write(hash('sha256', scratch.subarray(0, length), 'binary'), BLOCK, 'latin1')
    const right = Buffer.from(hash('sha256', outer, 'binary'), 'latin1')
    return signature.length === DIGEST && timingSafeEqual(right, signature)
  }
}
