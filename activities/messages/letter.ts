/** A message as people read it, before it is made an e-mail or a Slack message: in their language, with their times. */
import type { Language } from '@keyturn/contract'
import type { Facts } from './facts.ts'
import type { TextsOf } from './own-texts.ts'
import { type Fields, fillIn } from './template.ts'
import { TEXTS, type Text, type TextName, type Texts } from './texts.ts'

/** Every text in it is plain: whoever shows it escapes it. */
export interface Letter {
  readonly language: Language
  readonly subject: string
  readonly lead: string
  readonly facts: readonly (readonly [label: string, value: string])[]
  readonly whatToDo: string
  readonly steps: readonly string[]
  /** The likeliest first. */
  readonly links: readonly { readonly text: string; readonly url: string; readonly hint?: string }[]
  readonly lists: readonly { readonly title: string; readonly items: readonly string[] }[]
  readonly footer: string
}

export interface LetterOptions {
  readonly texts: TextsOf
  /** Where clients reach the API. */
  readonly publicUrl: string
  /** Where clients sign in at their provider, with `{rotationId}` in the place of the rotation. */
  readonly signInUrl?: string | undefined
}

const LOCALES: Readonly<Record<Language, string>> = { en: 'en-GB', de: 'de-DE' }
const HOUR = 3_600_000
const DAY = 24 * HOUR
const MOST_SOURCES = 10
const LONGEST_ITEM = 160

export function letterOf(facts: Facts, { texts, ...where }: LetterOptions): Letter {
  const { client, credential, oldKey, newKey, place } = facts
  const { language } = client
  const { messages, labels } = texts[language]
  const name = textNameOf(facts)
  const fields = fieldsOf(facts)
  const text = messages[name]
  const deadline = fields.deadline
  const { links, how } = waysOf(facts, labels, where)
  return {
    language,
    subject: fillIn(text.subject, fields),
    lead: fillIn(text.lead, fields),
    facts: [
      [labels.credential, plain(credential.name)],
      [labels.environment, credential.environment],
      ...(oldKey === undefined ? [] : [[labels.oldKey, oldKey.keyId] as const]),
      ...(newKey === undefined ? [] : [[labels.newKey, newKey.keyId] as const]),
      ...(place === undefined ? [] : [[labels.place, plain(place)] as const]),
      ...(deadline === undefined || HAS_NO_DEADLINE.has(name) ? [] : [[labels.deadline, deadline] as const]),
      ...switchedOver(facts, labels, name),
    ],
    whatToDo: labels.whatToDo,
    steps: stepsOf(facts, { name, text, labels, how }).map((step) => fillIn(step, fields)),
    links,
    lists: [...stragglersOf(facts, labels, name), ...foundAt(facts, labels)],
    footer: labels.footer,
  }
}

/** After which there is nothing to be in time for. */
const HAS_NO_DEADLINE: ReadonlySet<TextName> = new Set(['deactivated', 'rolled-back', 'emergency', 'leak', 'leak-of-dead-key'])
/** For whom it matters who uses the old key. */
const NAMES_STRAGGLERS: ReadonlySet<TextName> = new Set([
  'reminder',
  'deadline-near',
  'deactivated',
  'emergency',
  'emergency-grace',
  'leak',
  'leak-overlap',
])

/** Where these say to fetch the key and to put it in its place, the first two steps do. */
const FETCHES: ReadonlySet<TextName> = new Set(['introduced', 'reminder', 'emergency', 'emergency-grace', 'leak', 'leak-overlap'])

/**
 * There is nothing to fetch where the key has been written already: whoever has written steps of their own knows that. How a key is
 * fetched that no link leads to, nobody else can say.
 */
function stepsOf(
  { client: { language }, place }: Facts,
  { name, text, labels, how }: { name: TextName; text: Text; labels: Texts['labels']; how: string | undefined },
): readonly string[] {
  const fetches = FETCHES.has(name) && text.steps === TEXTS[language].messages[name].steps
  if (fetches && place !== undefined) return [labels.takeFromPlace, ...text.steps.slice(2)]
  if (how === undefined) return text.steps
  const [first = '', ...rest] = text.steps
  return fetches ? [`${first} ${how}`, ...rest] : [...text.steps, how]
}

function textNameOf({ message, oldKey, rotation, at }: Facts): TextName {
  const lives = oldKey?.state === 'active' && (oldKey.sunsetAt?.getTime() ?? 0) > at.getTime()
  if (message === 'leak') return rotation === undefined ? 'leak-of-dead-key' : lives ? 'leak-overlap' : 'leak'
  return message === 'emergency' && lives ? 'emergency-grace' : message
}

function fieldsOf({ client, credential, oldKey, newKey, rotation, at }: Facts): Fields {
  const { language, timeZone } = client
  const deadline = oldKey?.sunsetAt ?? rotation?.deadline
  const left = deadline === undefined ? 0 : Math.max(0, deadline.getTime() - at.getTime())
  const window = rotation?.policy.overlapMs ?? 0
  const passed = window === 0 ? 0 : Math.min(1, Math.max(0, 1 - left / window))
  return {
    client: plain(client.name),
    credential: plain(credential.name),
    environment: credential.environment,
    at: timeText(at, language, timeZone),
    oldKey: oldKey?.keyId ?? '—',
    newKey: newKey?.keyId ?? '—',
    ...(deadline === undefined
      ? {}
      : {
          deadline: timeText(deadline, language, timeZone),
          left: spanText(left, language),
          percent: `${Math.round(passed * 100)}`,
        }),
  }
}

/** How many programs have switched over, and when at this rate all will have: to be told while there is something to do. */
function switchedOver({ switchover, client }: Facts, labels: Texts['labels'], name: TextName): Letter['facts'] {
  if (switchover === undefined || switchover.total === 0 || !NAMES_STRAGGLERS.has(name)) return []
  const { moved, total, doneAt } = switchover
  const rate =
    moved === 0 || moved === total || doneAt === undefined
      ? undefined
      : timeText(new Date(doneAt), client.language, client.timeZone)
  return [[labels.switchedOver, `${moved} / ${total}${rate === undefined ? '' : `; ${labels.atThisRate} ${rate}`}`]]
}

/** `Thursday 26 November 2026 at 14:30 CET`: no date that could be read in two ways, and no time without its zone. */
export const timeText = (time: Date, language: Language, timeZone: string): string =>
  new Intl.DateTimeFormat(LOCALES[language], {
    timeZone,
    weekday: 'long',
    day: 'numeric',
    month: 'long',
    year: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
    timeZoneName: 'short',
  }).format(time)

function spanText(ms: number, language: Language): string {
  const [value, unit] =
    ms >= 2 * DAY
      ? ([ms / DAY, 'day'] as const)
      : ms >= 2 * HOUR
        ? ([ms / HOUR, 'hour'] as const)
        : ([ms / 60_000, 'minute'] as const)
  return new Intl.NumberFormat(LOCALES[language], { style: 'unit', unit, unitDisplay: 'long', maximumFractionDigits: 0 }).format(
    Math.floor(value),
  )
}

/**
 * The ways to a new key that is not fetched yet: links, and words where they do not lead everybody there. They hold nothing secret, unless
 * the policy says so; and nobody is asked for a key that opens nothing, or that signs.
 */
function waysOf(
  { rotation, claimCode, byOldKey }: Facts,
  labels: Texts['labels'],
  { publicUrl, signInUrl }: Omit<LetterOptions, 'texts'>,
): { links: Letter['links']; how?: string } {
  if (rotation === undefined || claimCode === undefined) return { links: [] }
  const { rotationId, policy } = rotation
  if (policy.claimInMessages === true) return { links: [{ text: labels.fetch, url: `${publicUrl}/claim#${claimCode}` }] }
  const links = signInUrl === undefined ? [] : [{ text: labels.signIn, url: signInUrl.replaceAll('{rotationId}', rotationId) }]
  if (byOldKey === 'sent')
    return { links: [{ text: labels.fetch, url: `${publicUrl}/claim/${rotationId}`, hint: labels.fetchHint }, ...links] }
  if (byOldKey === 'signed')
    return { links, how: links.length > 0 ? labels.signForIt : `${labels.signForIt} ${labels.orAskForIt}` }
  return links.length > 0 ? { links } : { links, how: labels.askForIt }
}

function stragglersOf({ evidence, client }: Facts, labels: Texts['labels'], name: TextName): Letter['lists'] {
  if (evidence === undefined || !NAMES_STRAGGLERS.has(name)) return []
  const items = evidence.stragglers.slice(0, MOST_SOURCES).map(({ address, userAgent, lastAt }) => {
    const when = timeText(new Date(lastAt), client.language, client.timeZone)
    return `${plain(address)}  ${plain(userAgent) || '—'}, ${labels.lastUsed} ${when}`
  })
  return [{ title: labels.stillUsed, items: items.length === 0 ? [labels.notUsedAnyMore] : items }]
}

function foundAt({ leaks }: Facts, labels: Texts['labels']): Letter['lists'] {
  const items = leaks.flatMap(({ sources }) => sources).map(({ source, url }) => plain(`${source} ${url}`.trim()))
  return items.length === 0 ? [] : [{ title: labels.found, items: [...new Set(items)].slice(0, MOST_SOURCES) }]
}

/** What others have written, on one line, without what would turn or hide the rest of it. */
const plain = (text: string): string =>
  text
    .replace(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, ' ')
    .trim()
    .slice(0, LONGEST_ITEM)
