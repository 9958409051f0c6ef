import { wellFormed } from '@keyturn/contract'

/** What PostgreSQL stores of a text: no NUL, and no half of a character, which `jsonb` refuses. */
export const storable = (text: string): string => wellFormed(text.replaceAll('\0', ''))

/** The same of every text within a value. */
export const storableJson = (value: unknown): string =>
  JSON.stringify(value, (_, inner: unknown) => (typeof inner === 'string' ? storable(inner) : inner))
