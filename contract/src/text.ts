/** Half of a character that takes two UTF-16 units is refused by PostgreSQL as JSON, and by strict readers of JSON. */
const HALVES = /\p{Cs}/gu

/** The text with whatever is half a character replaced. */
export const wellFormed = (text: string): string => text.replaceAll(HALVES, '\u{fffd}')

/** The beginning of a text, of so many UTF-16 units at most, with no character cut in half. */
export const cut = (text: string, longest: number): string => text.slice(0, longest).replace(/[\ud800-\udbff]$/, '')
