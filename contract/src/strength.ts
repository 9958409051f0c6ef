/** How many bits a token can have at most: by its alphabet and its length. Nothing else is known of keys from elsewhere. */

/** How many characters there are to choose from. */
const ALPHABETS = { digits: 10, hex: 16, base32: 32, base36: 36, base62: 62, base64: 64, printable: 94 } as const
export type Alphabet = keyof typeof ALPHABETS | 'uuid'
export const ALPHABET_NAMES: readonly Alphabet[] = [...(Object.keys(ALPHABETS) as (keyof typeof ALPHABETS)[]), 'uuid']

/** Below this a key is refused unless somebody says that it is to be taken all the same (NIST SP 800-57 part 1, 5.6.1). */
export const ENOUGH_BITS = 128

export interface Strength {
  /** Characters that count: without a prefix of words. */
  readonly length: number
  readonly alphabet: Alphabet
}

/** A random UUID (RFC 9562, version 4) has 122 bits that are random; whatever it is of, it has no more. */
const UUID_BITS = 122
const UUID = /(?:^|[_-])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i
/** `sk_live_`: says whose key it is, and is the same in all of them. */
const PREFIX = /^(?:[a-z]{2,10}[_-]){1,3}(?=.)/
const CLASSES: readonly (readonly [Alphabet, RegExp])[] = [
  ['digits', /^\d+$/],
  ['hex', /^(?:[0-9a-f]+|[0-9A-F]+)$/],
  ['base32', /^(?:[a-z2-7]+|[A-Z2-7]+)$/],
  ['base36', /^(?:[0-9a-z]+|[0-9A-Z]+)$/],
  ['base62', /^[0-9A-Za-z]+$/],
  ['base64', /^[0-9A-Za-z+/_-]+$/],
]

/** Of a token's characters; in doubt too little. */
export function strengthOf(token: string): Strength {
  if (UUID.test(token)) return { length: 36, alphabet: 'uuid' }
  const counted = token.replace(PREFIX, '').replace(/=+$/, '')
  return { length: counted.length, alphabet: CLASSES.find(([, pattern]) => pattern.test(counted))?.[0] ?? 'printable' }
}

/** Whole bits. */
export const bitsOf = ({ length, alphabet }: Strength): number =>
  alphabet === 'uuid' ? UUID_BITS : Math.floor(length * Math.log2(ALPHABETS[alphabet]))
