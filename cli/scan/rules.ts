/** Rules for other scanners, made from the contract's expression. None of these checks the checksum: what they find is a candidate. */
import { ENVIRONMENTS } from '@keyturn/contract/environment'
import type { KeyId } from '@keyturn/contract/ids'
import { newToken, scannerExpression } from '@keyturn/contract/token'

export type Scanner = 'gitleaks' | 'github'

const NO_WORD = '\\b'
const SECRET_BYTES = 32

export const rulesFor = (scanner: Scanner, brands: readonly string[]): string =>
  (scanner === 'gitleaks' ? gitleaks : github)(brands)

/** A configuration file of gitleaks 8. */
function gitleaks(brands: readonly string[]): string {
  const rules = brands.map(
    (brand) => `[[rules]]
id = "keyturn-${brand}"
description = "API key of ${brand}: report it as leaked, its client gets a new one"
regex = '''${scannerExpression(brand)}'''
keywords = [${ENVIRONMENTS.map((environment) => `"${brand}_${environment}_"`).join(', ')}]
`,
  )
  return `# ${comment('gitleaks', brands)}
# gitleaks --config <this file> dir <path>; to have the default rules too, add:
#   [extend]
#   useDefault = true

title = "Keyturn tokens"

${rules.join('\n')}`
}

/**
 * Custom patterns of GitHub's secret scanning, in the form in which collections of such patterns are kept. GitHub's library, Hyperscan, is
 * given no \b: the character after is GitHub's "after secret". GitHub's own "before secret" would miss a token after the letter of an
 * escape (`%3D`, `\n`).
 */
function github(brands: readonly string[]): string {
  const patterns = brands.map((brand) => {
    const expression = scannerExpression(brand)
    if (!expression.endsWith(NO_WORD)) throw new Error('the contract’s expression has another end than this knows of')
    return `  - name: Keyturn token of ${brand}
    type: keyturn_${brand}
    regex:
      pattern: '${expression.slice(0, -NO_WORD.length)}'
      start: '\\A|[\\s\\S]'
      end: '\\z|[^0-9A-Za-z_]'
    test:
      data: '${exampleToken(brand)}'
`
  })
  return `# ${comment('github', brands)}
# GitHub: Settings, Advanced Security, Custom patterns, New pattern, More options. "pattern" is the secret format, "start" before secret,
# "end" after secret, "data" the test string. After a dry run publish it and enable push protection.

name: Keyturn tokens
patterns:
${patterns.join('\n')}`
}

const comment = (scanner: Scanner, brands: readonly string[]): string =>
  `Made by: keyturn scan rules --for ${scanner}${brands.map((brand) => ` --brand ${brand}`).join('')}`

/** A token that was never issued: its secret is zero. */
export const exampleToken = (brand: string): string =>
  newToken({ brand, environment: 'test', keyId: 'Example000000000' as KeyId }, new Uint8Array(SECRET_BYTES))
