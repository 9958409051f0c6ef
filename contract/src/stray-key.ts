/** Whether a text holds a key where none belongs. */
import { scannerExpression } from './token.ts'

/** Also inside other words, where the expression for scanners stops at word borders; and whatever its checksum: it may be a slip. */
export const WHOLE_KEY = new RegExp(scannerExpression().replaceAll('\\b', ''))
/** A secret alone, or a claim: base62 of their length. Digests in hexadecimal are none. */
const SECRET_ALONE = /[0-9A-Za-z]{43,}/g
const HEXADECIMAL = /^(?:[0-9a-f]+|[0-9A-F]+)$/

export function holdsKey(text: string): boolean {
  return WHOLE_KEY.test(text) || (text.match(SECRET_ALONE) ?? []).some((run) => !HEXADECIMAL.test(run))
}

/** A run that no word, number or id of a person's making looks like; the keys of most providers have one. */
const FOREIGN_RUN = /(?=[0-9A-Za-z]*\d)(?=[0-9A-Za-z]*[a-z])(?=[0-9A-Za-z]*[A-Z])[0-9A-Za-z]{20,}/

/** The same for keys of any provider, where a wrong suspicion costs little. */
export const looksLikeAnyKey = (text: string): boolean => holdsKey(text) || FOREIGN_RUN.test(text)
