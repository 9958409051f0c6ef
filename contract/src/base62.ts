/** Base62 with the digits 0–9, A–Z, a–z, in this order. */
export const BASE62_DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** Writes a non-negative number in base62, padded on the left with `0` to `width` digits. */
export function toBase62(value: bigint | number, width: number): string {
  let rest = BigInt(value)
  if (rest < 0n) throw new RangeError('base62 takes numbers from 0 up')
  let digits = ''
  while (rest > 0n) {
    digits = BASE62_DIGITS.charAt(Number(rest % 62n)) + digits
    rest /= 62n
  }
  return digits.padStart(width, '0')
}

/** Writes bytes, read as one big-endian number, in base62. 32 bytes always fit in 43 digits. */
export function bytesToBase62(bytes: Uint8Array, width: number): string {
  let value = 0n
  for (const byte of bytes) value = (value << 8n) | BigInt(byte)
  return toBase62(value, width)
}
