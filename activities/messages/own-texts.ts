/** Texts that an operator writes instead of ours. They are checked at the start: a message that can not be sent is found then. */
import { readFileSync } from 'node:fs'
import { LANGUAGES, type Language } from '@keyturn/contract'
import { parse } from 'yaml'
import { ConfigError } from '../../infra/config.ts'
import { flawsOfTemplate } from './template.ts'
import { FIELDS_OF, TEXT_NAMES, TEXTS, type Text, type TextName, type Texts } from './texts.ts'

export type TextsOf = Readonly<Record<Language, Texts>>

/**
 * Our texts, with those of a file in their place: `language: message: {subject, lead, steps}`, each as far as it is given.
 * @throws ConfigError, with everything that is wrong at once
 */
export function loadTexts(file: string | undefined): TextsOf {
  if (file === undefined) return TEXTS
  let own: unknown
  try {
    own = parse(readFileSync(file, 'utf8'))
  } catch (error) {
    throw new ConfigError([`${file}: ${error instanceof Error ? error.message : 'can not be read'}`])
  }
  const { texts, flaws } = withOwnTexts(own)
  if (flaws.length > 0) throw new ConfigError(flaws.map((flaw) => `${file}: ${flaw}`))
  return texts
}

/** @returns the texts, and what is wrong with those that were given */
export function withOwnTexts(own: unknown): { texts: TextsOf; flaws: string[] } {
  const flaws: string[] = []
  const texts = { ...TEXTS }
  for (const [language, messages] of entriesOf(own, 'the file', flaws)) {
    if (!isOneOf(LANGUAGES, language)) {
      flaws.push(`${language}: no language that we write in; there are ${LANGUAGES.join(', ')}`)
      continue
    }
    const changed = { ...texts[language].messages }
    for (const [name, text] of entriesOf(messages, language, flaws)) {
      const path = `${language}.${name}`
      if (!isOneOf(TEXT_NAMES, name)) flaws.push(`${path}: no message; there are ${TEXT_NAMES.join(', ')}`)
      else changed[name] = readText(text, changed[name], { path, name, flaws })
    }
    texts[language] = { ...texts[language], messages: changed }
  }
  return { texts, flaws }
}

function readText(text: unknown, ours: Text, about: { path: string; name: TextName; flaws: string[] }): Text {
  const { path, name, flaws } = about
  const read: { -readonly [K in keyof Text]: Text[K] } = { ...ours }
  for (const [part, value] of entriesOf(text, path, flaws)) {
    const lines = part === 'steps' ? value : [value]
    if (!['subject', 'lead', 'steps'].includes(part)) flaws.push(`${path}.${part}: a message has a subject, a lead and steps`)
    else if (!Array.isArray(lines) || !lines.every((line): line is string => typeof line === 'string' && line.trim() !== ''))
      flaws.push(`${path}.${part}: expected ${part === 'steps' ? 'a list of texts' : 'a text'}`)
    else {
      for (const line of lines) flaws.push(...flawsOfTemplate(line, FIELDS_OF[name]).map((flaw) => `${path}.${part}: ${flaw}`))
      if (part === 'steps') read.steps = lines
      else read[part as 'subject' | 'lead'] = (lines[0] ?? '').replace(/\s+/g, ' ').trim()
    }
  }
  return read
}

function entriesOf(value: unknown, path: string, flaws: string[]): [string, unknown][] {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return Object.entries(value)
  flaws.push(`${path}: expected names with what belongs to them`)
  return []
}

const isOneOf = <T extends string>(all: readonly T[], text: string): text is T => (all as readonly string[]).includes(text)
