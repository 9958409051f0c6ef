/** Rules for other scanners: gitleaks itself finds with them what the contract says, and so does a custom pattern of GitHub. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseToken, scannerExpression, tokenSha256 } from '@keyturn/contract'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fingerprintOf } from '../../cli/scan/findings.ts'
import { exampleToken, rulesFor } from '../../cli/scan/rules.ts'
import { findOnPath } from '../../infra/stack/tools.ts'
import { vectors } from '../contract/vectors.ts'
import { gitleaks } from '../support/gitleaks.ts'
import { freshToken, keyturn, ROOT, temporaryDirectory, tokensIn, writeFiles } from './scanning.ts'

const BUILD_MS = 1_800_000

const { path: temporary, remove } = temporaryDirectory()
afterAll(remove)

const scannerVectors = vectors<{ brand?: string; text: string; found: string[] }[]>('scanner')
const tokenVectors = vectors<{ good: { token: string; brand: string }[]; bad: { token: string; why: string }[] }>('tokens')
const every = [...tokenVectors.good, ...tokenVectors.bad].map(({ token }) => token)
const everyBrand = [...new Set(tokenVectors.good.map(({ brand }) => brand))]

const brandOf = (token: string): string => token.split('_')[0] ?? ''
/** What an expression finds, with no look at the checksum. */
const candidates = (text: string, brands: readonly string[]): string[] =>
  brands.flatMap((brand) => text.match(new RegExp(scannerExpression(brand), 'g')) ?? []).sort()

let count = 0
/** What gitleaks finds in each of these texts, with the rules for these brands. */
function foundByGitleaks(program: string, texts: readonly string[], brands: readonly string[]): string[][] {
  const directory = join(temporary, `texts-${++count}`)
  mkdirSync(directory)
  writeFiles(directory, Object.fromEntries(texts.map((text, i) => [`${i}.txt`, text])))
  const config = join(temporary, `rules-${count}.toml`)
  writeFiles(temporary, { [`rules-${count}.toml`]: rulesFor('gitleaks', brands) })
  const args = [
    'dir',
    '--no-banner',
    '--max-decode-depth',
    '0',
    '--exit-code',
    '0',
    '--report-format',
    'json',
    '--report-path',
    '-',
  ]
  const { status, stdout, stderr } = spawnSync(program, [...args, '--config', config, directory], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`gitleaks: ${stderr}`)
  const findings = JSON.parse(stdout) as { File: string; Secret: string }[]
  return texts.map((_, i) =>
    findings
      .filter(({ File: file }) => file.endsWith(`/${i}.txt`))
      .map(({ Secret: secret }) => secret)
      .sort(),
  )
}

// Its rules can be tested only where Go can build it.
describe.skipIf(findOnPath('go') === undefined)('gitleaks (skipped where Go is missing)', () => {
  let program = ''
  beforeAll(async () => {
    program = (await gitleaks((what) => process.stderr.write(`Tests: ${what}\n`))) ?? ''
  }, BUILD_MS)

  test('finds what the contract’s vectors say, and nothing else', () => {
    for (const brand of new Set(scannerVectors.map((vector) => vector.brand))) {
      const cases = scannerVectors.filter((vector) => vector.brand === brand)
      const brands = brand === undefined ? [...new Set(['tm', ...cases.flatMap(({ found }) => found.map(brandOf))])] : [brand]
      const found = foundByGitleaks(
        program,
        cases.map(({ text }) => text),
        brands,
      )
      expect(found).toEqual(cases.map((vector) => [...vector.found].sort()))
    }
  })

  test('finds every good token, and of the bad ones those that only the checksum tells', () => {
    const found = foundByGitleaks(program, every, everyBrand)
    expect(found).toEqual(every.map((text) => candidates(text, everyBrand)))
    expect(found.slice(0, tokenVectors.good.length)).toEqual(tokenVectors.good.map(({ token }) => [token]))
  })

  test('finds fresh tokens among other text, each where keyturn scan finds it', () => {
    const tokens = Array.from({ length: 20 }, (_, i) => freshToken(['kt', 'tm', 'acme'][i % 3] ?? 'kt'))
    const texts = tokens.map((token, i) => `const a = ${i}\nkt_prod_\n  key: "${token}",\n`)
    const found = foundByGitleaks(program, texts, ['kt', 'tm'])
    expect(found).toEqual(texts.map((text, i) => (tokensIn(Buffer.from(text), ['kt', 'tm']).length === 1 ? [tokens[i]] : [])))
    expect(found.flat()).toHaveLength(14)
  })
})

describe('a custom pattern of GitHub', () => {
  const field = (text: string, name: string): string => new RegExp(`^ +${name}: '(.*)'$`, 'm').exec(text)?.[1] ?? ''

  /** The three fields one after the other, as GitHub matches them; `\A` and `\z` are written otherwise here. */
  function foundByGitHub(text: string, brand: string): string[] {
    const rules = rulesFor('github', [brand])
    const written = (name: string): string =>
      field(rules, name).replaceAll('\\A', '(?<![\\s\\S])').replaceAll('\\z', '(?![\\s\\S])')
    const expression = new RegExp(`(?:${written('start')})(${written('pattern')})(?:${written('end')})`, 'g')
    const found: string[] = []
    // Hyperscan tells of matches that overlap.
    for (let match = expression.exec(text); match !== null; match = expression.exec(text)) {
      found.push(match[1] ?? '')
      expression.lastIndex = match.index + 1
    }
    return found.sort()
  }

  test.each(scannerVectors.filter(({ brand }) => brand !== undefined))(
    'finds what it should in $text',
    ({ brand, text, found }) => {
      expect(foundByGitHub(text, brand ?? '')).toEqual([...found].sort())
    },
  )

  test.each(tokenVectors.good)('finds $token', ({ token, brand }) => {
    expect(foundByGitHub(token, brand)).toEqual([token])
  })

  test('uses nothing that Hyperscan does not know', () => {
    const rules = rulesFor('github', ['kt'])
    for (const name of ['pattern', 'start', 'end']) {
      expect(field(rules, name)).not.toBe('')
      // No look-around, back reference, atomic group, word boundary or option.
      expect(field(rules, name)).not.toMatch(/\(\?[^:]|\\[1-9bBGK]|[*+}]\+/)
    }
  })

  test('its test string is a token, of a secret that was never issued', () => {
    const example = field(rulesFor('github', ['acme']), 'data')
    expect(parseToken(example)).toMatchObject({ ok: true, parts: { brand: 'acme', environment: 'test' } })
    expect(foundByGitHub(example, 'acme')).toEqual([example])
  })
})

describe('the examples in docs/', () => {
  test.each([
    ['gitleaks', 'gitleaks.toml'],
    ['github', 'github-custom-patterns.yaml'],
  ] as const)('%s is what the command prints', async (scanner, file) => {
    const { code, stdout } = await keyturn(['scan', 'rules', '--for', scanner, '--brand', 'kt'])
    expect(code).toBe(0)
    expect(readFileSync(join(ROOT, 'docs/examples', file), 'utf8')).toBe(stdout)
  })

  test('--json holds the rules too', async () => {
    const { stdout } = await keyturn(['scan', 'rules', '--for', 'gitleaks', '--json'], { env: { KEYTURN_BRAND: 'tm' } })
    expect(JSON.parse(stdout)).toEqual({ scanner: 'gitleaks', brands: ['tm'], rules: rulesFor('gitleaks', ['tm']) })
  })

  test('the example token is accepted in this repository', () => {
    const accepted = readFileSync(join(ROOT, '.keyturnignore'), 'utf8')
    expect(accepted).toContain(fingerprintOf(tokenSha256(exampleToken('kt'))))
  })
})
