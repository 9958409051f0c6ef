/** What people read: texts, times, and what others have written in it. */
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { LANGUAGES, type Language, NOTIFICATION_KINDS, type NotificationKind } from '@keyturn/contract'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { emailOf } from '../../activities/messages/email.ts'
import type { Facts } from '../../activities/messages/facts.ts'
import { letterOf, timeText } from '../../activities/messages/letter.ts'
import { loadTexts, withOwnTexts } from '../../activities/messages/own-texts.ts'
import { sampleFacts } from '../../activities/messages/sample.ts'
import { slackMessageOf } from '../../activities/messages/slack.ts'
import { flawsOfTemplate } from '../../activities/messages/template.ts'
import { FIELDS_OF, TEXT_NAMES, TEXTS } from '../../activities/messages/texts.ts'
import type { ByOldKey } from '../../registry/by-old-key.ts'

const publicUrl = 'https://keys.example.com'
const AT = new Date('2026-11-26T13:30:00Z')

describe('every text', () => {
  test.each(LANGUAGES)('in %s: has no field that its message has not', (language) => {
    for (const name of TEXT_NAMES) {
      const { subject, lead, steps } = TEXTS[language].messages[name]
      for (const text of [subject, lead, ...steps]) expect([name, flawsOfTemplate(text, FIELDS_OF[name])]).toEqual([name, []])
    }
  })

  test.each(LANGUAGES)('in %s: makes a mail and a Slack message of every kind, well-formed', (language) => {
    for (const message of NOTIFICATION_KINDS) {
      const letter = letterOf(sampleFacts(message, { language, at: AT }), { texts: TEXTS, publicUrl })
      const { subject, text, html } = emailOf(letter)
      expect(`${subject}${text}`).not.toMatch(/[{}]|undefined|NaN|Invalid/)
      expect(text.split('\n').every((line) => line.length <= 160)).toBe(true)
      expect(unbalanced(html)).toEqual([])
      expect(html).toContain(`<html lang="${language}">`)
      const { blocks } = slackMessageOf(letter)
      expect(blocks.length).toBeLessThanOrEqual(50)
    }
  })
})

test('a time is said with its day, year and zone, in the client’s own', () => {
  expect(timeText(AT, 'en', 'Europe/Berlin')).toMatch(/^Thursday,? 26 November 2026 at 14:30 CET$/)
  expect(timeText(AT, 'de', 'Europe/Berlin')).toBe('Donnerstag, 26. November 2026 um 14:30 MEZ')
  expect(timeText(AT, 'en', 'America/New_York')).toMatch(/^Thursday,? 26 November 2026 at 08:30 (GMT-5|EST)$/)
  expect(timeText(new Date('2026-07-01T12:00:00Z'), 'de', 'Europe/Berlin')).toBe('Mittwoch, 1. Juli 2026 um 14:00 MESZ')
})

test('a client that is on its way hears how far it is, and when it will be done', () => {
  const of = (message: 'deadline-near' | 'reminder' | 'rolled-back') =>
    letterOf(sampleFacts(message, { at: AT }), { texts: TEXTS, publicUrl }).facts.find(([label]) =>
      label.startsWith('Programs'),
    )?.[1]
  expect(of('deadline-near')).toMatch(/^3 \/ 5; at this rate all by Saturday,? 28 November 2026 at 13:30 UTC$/)
  expect(of('reminder')).toBe('0 / 5')
  expect(of('rolled-back')).toBeUndefined()
})

describe('the way to a new key that is not fetched yet', () => {
  const rotationId = 'rot_Sample0000000000'
  const PAGE = `${publicUrl}/claim/${rotationId}`
  const signInUrl = 'https://portal.example.com/keys?of={rotationId}'
  const PORTAL = `https://portal.example.com/keys?of=${rotationId}`
  const ASK = { en: /answer this message.* we give you a claim/, de: /antworten Sie auf diese Nachricht.* Abholschein/ }
  const SIGN = { en: /asks for it with a request that the old key signs/, de: /Anfrage, die der alte Schlüssel signiert/ }
  const read = (language: Language, facts: Facts, portal?: string) => {
    const { links, steps } = letterOf(facts, { texts: TEXTS, publicUrl, signInUrl: portal })
    const text = steps.join('\n')
    return { urls: links.map(({ url }) => url), asks: ASK[language].test(text), signs: SIGN[language].test(text) }
  }

  describe.each(LANGUAGES)('in %s', (language) => {
    const sample = (message: NotificationKind, byOldKey?: ByOldKey): Facts => {
      const { byOldKey: _, ...facts } = sampleFacts(message, { language, at: AT })
      return { ...facts, ...(byOldKey === undefined ? {} : { byOldKey }) }
    }

    test.each(['introduced', 'reminder', 'deadline-near'] as const)(
      '%s: the old key is asked for where it is a bearer that opens',
      (message) => {
        const facts = sample(message, 'sent')
        expect(read(language, facts)).toEqual({ urls: [PAGE], asks: false, signs: false })
        expect(read(language, facts, signInUrl)).toEqual({ urls: [PAGE, PORTAL], asks: false, signs: false })
      },
    )

    test.each(['introduced', 'reminder', 'deadline-near'] as const)('%s: a key that signs is asked for nowhere', (message) => {
      const facts = sample(message, 'signed')
      expect(read(language, facts)).toMatchObject({ urls: [], signs: true })
      expect(letterOf(facts, { texts: TEXTS, publicUrl }).steps.join()).toMatch(
        language === 'en' ? /give you a claim/ : /Abholschein/,
      )
      expect(read(language, facts, signInUrl)).toEqual({ urls: [PORTAL], asks: false, signs: true })
    })

    test.each(['introduced', 'emergency', 'leak', 'deadline-near'] as const)(
      '%s: where the old key opens nothing, one signs in, or asks',
      (message) => {
        expect(read(language, sample(message))).toEqual({ urls: [], asks: true, signs: false })
        expect(read(language, sample(message), signInUrl)).toEqual({ urls: [PORTAL], asks: false, signs: false })
      },
    )
  })

  test('is said to whoever reads an operator’s own steps, too', () => {
    const { texts } = withOwnTexts({ en: { emergency: { steps: ['Do it.'] } } })
    const { steps } = letterOf(sampleFacts('emergency', { at: AT }), { texts, publicUrl })
    expect(steps).toEqual(['Do it.', expect.stringMatching(ASK.en)])
  })

  test('needs no words where the claim is in the message, and is none where nothing is to be fetched', () => {
    const { rotation = expect.fail(), ...facts } = sampleFacts('emergency', { at: AT })
    const open = { ...facts, rotation: { ...rotation, policy: { ...rotation.policy, claimInMessages: true } }, claimCode: 'code' }
    expect(read('en', open, signInUrl)).toEqual({ urls: [`${publicUrl}/claim#code`], asks: false, signs: false })
    const { claimCode: _, ...fetched } = { ...facts, rotation }
    expect(read('en', fetched, signInUrl)).toEqual({ urls: [], asks: false, signs: false })
  })

  test('has its place in mails and in Slack: every link, the likeliest first', () => {
    const letter = letterOf(sampleFacts('introduced', { at: AT }), { texts: TEXTS, publicUrl, signInUrl })
    const { text, html } = emailOf(letter)
    for (const shown of [text, html])
      expect([shown.indexOf(PAGE) > 0, shown.indexOf(PORTAL) > shown.indexOf(PAGE)]).toEqual([true, true])
    expect(slackMessageOf(letter).blocks).toContainEqual({
      type: 'actions',
      elements: [expect.objectContaining({ url: PAGE, style: 'primary' }), expect.objectContaining({ url: PORTAL })],
    })
  })
})

test('it can be read on dark and on light ground', () => {
  const { html } = emailOf(letterOf(sampleFacts('introduced', { at: AT }), { texts: TEXTS, publicUrl }))
  expect(html).toContain('<meta name="color-scheme" content="light dark">')
  expect(html).toContain('@media (prefers-color-scheme: dark)')
  const [light = '', dark = ''] = html.split('@media (prefers-color-scheme: dark)')
  const colours = (css: string, of: string) =>
    new RegExp(`${of} \\{[^}]*background: (#\\w{6});[^}]*?color: (#\\w{6})`).exec(css)?.slice(1) ?? []
  for (const [css, of] of [
    [light, 'body'],
    [dark, 'body'],
    [light, 'a\\.button'],
    [dark, 'a\\.button'],
  ] as const) {
    const [ground = expect.fail(), ink = expect.fail()] = colours(css, of)
    expect(contrast(ground, ink)).toBeGreaterThan(4.5)
  }
})

test('what programs have sent as their names is shown as it is, and does nothing', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (name) => {
      const userAgent = `<script>alert(1)</script>"'&*_~\`<!channel>\u202e\r\nBcc: x ${name}`
      const facts = sampleFacts('reminder', { at: AT, userAgent })
      const letter = letterOf(facts, { texts: TEXTS, publicUrl })
      const { html, text } = emailOf(letter)
      expect(html).not.toMatch(/<script|\u202e/)
      expect(unbalanced(html)).toEqual([])
      expect(text).not.toMatch(/^Bcc/m)
      expect(JSON.stringify(slackMessageOf(letter))).not.toContain('<!channel>')
    }),
    { numRuns: 100 },
  )
})

describe("an operator's own texts", () => {
  test('take the place of ours, as far as they go', () => {
    const { texts, flaws } = withOwnTexts({ en: { introduced: { subject: 'New key: {credential}' } } })
    expect(flaws).toEqual([])
    const { subject, lead } = letterOf(sampleFacts('introduced', { at: AT }), { texts, publicUrl })
    expect(subject).toMatch(/^New key: \S+$/)
    expect(lead).toContain('is being replaced')
  })

  test.each([
    [{ en: { introduced: { lead: 'Hello {name}' } } }, 'en.introduced.lead: unknown field {name}'],
    [{ en: { 'rolled-back': { lead: 'by {deadline}' } } }, 'en.rolled-back.lead: unknown field {deadline}'],
    [{ en: { introduced: { lead: 'Hello {credential' } } }, 'a brace without its pair'],
    [{ en: { introduced: { steps: 'do it' } } }, 'en.introduced.steps: expected a list of texts'],
    [{ en: { introduced: { title: 'x' } } }, 'en.introduced.title: a message has a subject, a lead and steps'],
    [{ en: { hello: {} } }, 'en.hello: no message'],
    [{ fr: {} }, 'fr: no language that we write in'],
    [['en'], 'the file: expected names'],
    [{ en: { introduced: { lead: 7 } } }, 'en.introduced.lead: expected a text'],
  ])('%j is refused: %s', (own, flaw) => {
    expect(withOwnTexts(own).flaws).toEqual([expect.stringContaining(flaw)])
  })

  test('are read at the start, and everything that is wrong is said at once', () => {
    const file = join(mkdtempSync(join(tmpdir(), 'keyturn-messages-')), 'messages.yaml')
    writeFileSync(file, 'en:\n  introduced:\n    lead: "{name} and {whatever}"\nxx: {}\n')
    expect(() => loadTexts(file)).toThrow(/messages\.yaml: en.introduced.*\{name\}.*\n.*\{whatever\}.*\n.*xx:/)
    expect(() => loadTexts(`${file}.gone`)).toThrow(/ENOENT/)
  })
})

/** Elements that are not closed in order. */
function unbalanced(html: string): string[] {
  const open: string[] = []
  for (const [, close, name = '', rest = ''] of html.matchAll(/<(\/?)([a-z][a-z0-9]*)\b([^>]*)>/g)) {
    if (['meta', 'br'].includes(name)) continue
    if (close === '') open.push(name)
    else if (open.pop() !== name) return [`</${name}${rest}>`]
  }
  return open
}

/** WCAG 2. */
function contrast(a: string, b: string): number {
  const luminance = (hex: string) => {
    const [r = 0, g = 0, bl = 0] = [1, 3, 5].map((i) => {
      const c = Number.parseInt(hex.slice(i, i + 2), 16) / 255
      return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * bl
  }
  const [lighter = 0, darker = 0] = [luminance(a), luminance(b)].sort((x, y) => y - x)
  return (lighter + 0.05) / (darker + 0.05)
}
