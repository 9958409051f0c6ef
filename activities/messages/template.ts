/** Texts with fields in braces: `{credential} gets a new key`. A field that nobody fills in is found before anything is sent. */

export const FIELDS = ['client', 'credential', 'environment', 'oldKey', 'newKey', 'deadline', 'left', 'percent', 'at'] as const
export type Field = (typeof FIELDS)[number]

export type Fields = Readonly<Partial<Record<Field, string>>>

const FIELD = /\{([^{}]*)\}/g

/** What is wrong with a text. @param allowed the fields that its message has */
export function flawsOfTemplate(text: string, allowed: readonly Field[]): string[] {
  const flaws = [...text.matchAll(FIELD)]
    .map(([, name = '']) => name)
    .filter((name) => !(allowed as readonly string[]).includes(name))
    .map((name) => `unknown field {${name}}; there are ${allowed.map((field) => `{${field}}`).join(', ')}`)
  if (/[{}]/.test(text.replace(FIELD, ''))) flaws.push('a brace without its pair')
  return flaws
}

/** @throws Error for a field that has no value: the texts are checked at the start */
export const fillIn = (text: string, fields: Fields): string =>
  text.replace(FIELD, (_, name: string) => {
    const value = fields[name as Field]
    if (value === undefined) throw new Error(`the text has a field that is not there: {${name}}`)
    return value
  })
