import { readdirSync, readFileSync } from 'node:fs'
import { Parser } from '@asyncapi/parser'
import {
  KEY_EVENT_TYPES,
  KEY_TRANSITIONS,
  PROBLEMS,
  type ProblemCode,
  problem,
  scannerExpression,
  TOPIC_SETTINGS,
  TOPICS,
  type TopicName,
  topicNames,
} from '@keyturn/contract'
import { asyncApiDocument } from '@keyturn/contract/asyncapi'
import { describe, expect, test } from 'vitest'
import { generatedFiles } from '../../contract/scripts/generate.ts'

const room = new URL('../../contract/', import.meta.url)
const readme = readFileSync(new URL('README.md', room), 'utf8')
/** Its tables as rows of cells. */
const rows = readme
  .split('\n')
  .filter((line) => line.startsWith('| '))
  .map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  )

describe('published files', () => {
  test.each(Object.entries(generatedFiles()))('%s is what `npm run generate` makes', (path, text) => {
    expect(readFileSync(new URL(path, room), 'utf8')).toBe(text)
  })

  test('there are no other schemas', () => {
    const made = Object.keys(generatedFiles()).filter((path) => path.startsWith('schemas/'))
    expect(
      readdirSync(new URL('schemas/', room))
        .map((name) => `schemas/${name}`)
        .sort(),
    ).toEqual(made.sort())
  })
})

describe('AsyncAPI', () => {
  test('the document is valid', async () => {
    const { document, diagnostics } = await new Parser().parse(readFileSync(new URL('asyncapi.json', room), 'utf8'))
    expect(
      diagnostics.filter(({ severity }) => severity <= 1).map(({ message, path }) => `${path.join('.')}: ${message}`),
    ).toEqual([])
    expect(document?.version()).toBe('3.0.0')
    const addresses = document
      ?.channels()
      .all()
      .map((channel) => channel.address())
    expect(addresses?.sort()).toEqual(Object.values(TOPICS).sort())
  })

  test('a document with a missing schema is refused: the check can fail', async () => {
    const broken = JSON.stringify(asyncApiDocument('0')).replace('"action":"send"', '"action":"shout"')
    const { diagnostics } = await new Parser().parse(broken)
    expect(diagnostics.filter(({ severity }) => severity === 0)).not.toEqual([])
  })
})

describe('README', () => {
  test('lists every problem code with its status and title, and no other', () => {
    const listed = rows.filter(([, status]) => /^\d{3}$/.test(status ?? ''))
    expect(listed.sort()).toEqual(
      Object.entries(PROBLEMS)
        .map(([code, { status, title }]) => [`\`${code}\``, String(status), title])
        .sort(),
    )
  })

  test('names every topic with its settings and every event type', () => {
    for (const topic of Object.keys(TOPICS) as TopicName[]) {
      const { partitions, config } = TOPIC_SETTINGS[topic]
      const days = config['retention.ms'] === undefined ? '' : `, ${Number(config['retention.ms']) / 86_400_000} days`
      const row = rows.find(([name]) => name === `\`${TOPICS[topic]}\``)
      expect(row?.slice(2, 4), topic).toEqual([String(partitions), `${config['cleanup.policy']}${days}`])
    }
    for (const type of KEY_EVENT_TYPES) expect(readme).toContain(`\`${type}\``)
  })

  test('lists every key state with what may follow it', () => {
    const listed = rows.filter(([name, accepted]) => name !== undefined && /^(yes|no)$/.test(accepted ?? ''))
    expect(
      listed.map(([name, , next]) => [
        name?.replaceAll('`', ''),
        [...(next ?? '').matchAll(/`([a-z-]+)`/g)].map(([, state]) => state),
      ]),
    ).toEqual(Object.entries(KEY_TRANSITIONS).map(([name, next]) => [name, [...next]]))
  })

  test('shows the scanner expression', () => expect(readme).toContain(`    ${scannerExpression()}\n`))
})

describe('topics and problems', () => {
  test('a prefix stands before every topic', () => {
    expect(Object.values(topicNames('a.'))).toEqual(Object.values(TOPICS).map((name) => `a.${name}`))
    expect(topicNames()).toEqual(TOPICS)
  })

  test('a problem document carries its code, and nothing that was not given', () => {
    for (const code of Object.keys(PROBLEMS) as ProblemCode[]) {
      expect(problem(code)).toEqual({ type: `urn:keyturn:problem:${code}`, code, ...PROBLEMS[code] })
    }
    expect(problem('not-found', 'no client cli_1', [])).toMatchObject({ detail: 'no client cli_1', errors: [] })
  })
})
