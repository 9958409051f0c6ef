/** The SARIF report: valid, stable, and without a secret. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { tokenSha256 } from '@keyturn/contract'
import schema from '@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json' with { type: 'json' }
import Draft04 from 'ajv-draft-04'
import { afterAll, describe, expect, test } from 'vitest'
import { fingerprintOf, type ScanReport } from '../../cli/scan/findings.ts'
import { sarifOf } from '../../cli/scan/sarif.ts'
import { freshToken, keyturn, scan, TestRepository, temporaryDirectory, writeFiles } from './scanning.ts'

interface Sarif {
  readonly runs: {
    readonly invocations: { readonly executionSuccessful: boolean; readonly toolExecutionNotifications: object[] }[]
    readonly results: {
      readonly message: { readonly text: string }
      readonly fingerprints: Readonly<Record<string, string>>
      readonly locations: object[]
    }[]
  }[]
}

const ajv = new Draft04.default({ strict: false, allErrors: true, validateFormats: false, unicodeRegExp: false })
const isValid = ajv.compile(schema)

const { path: temporary, remove } = temporaryDirectory()
afterAll(remove)

const token = freshToken()
const fingerprint = fingerprintOf(tokenSha256(token))
const hex = fingerprint.slice('sha256:'.length)

/** The report as it is written, checked against the schema. */
function written(report: ScanReport, root: string): Sarif {
  const text = JSON.stringify(sarifOf(report, root))
  const sarif = JSON.parse(text) as Sarif
  isValid(sarif)
  expect(isValid.errors ?? []).toEqual([])
  expect(text).not.toContain(token.slice(25))
  return sarif
}

describe('SARIF', () => {
  test('the schema refuses what is not SARIF', () => {
    expect(isValid({ version: '2.1.0', runs: [{ results: [] }] })).toBe(false)
  })

  test('a file is written, and standard output when asked for', async () => {
    const directory = join(temporary, 'tree')
    writeFiles(directory, { 'src/a b#.ts': `\n é ${token}` })
    const file = join(temporary, 'report.sarif')
    const first = await keyturn(['scan', '--sarif', file], { cwd: directory })
    expect(first).toMatchObject({ code: 1, stdout: expect.stringContaining('src/a b#.ts:2:4 key') })
    const second = await keyturn(['scan', '--sarif', '-', '.'], { cwd: directory })
    expect(second.code).toBe(1)
    expect(JSON.parse(second.stdout)).toEqual(JSON.parse(readFileSync(file, 'utf8')))
    const sarif = JSON.parse(second.stdout) as Sarif
    expect(isValid(sarif)).toBe(true)
    expect(sarif.runs[0]?.results).toMatchObject([
      {
        ruleId: 'keyturn-token',
        level: 'error',
        locations: [
          {
            physicalLocation: {
              artifactLocation: { uri: 'src/a%20b%23.ts', uriBaseId: '%SRCROOT%' },
              region: { startLine: 2, startColumn: 4, endColumn: 4 + token.length },
            },
          },
        ],
        fingerprints: { 'tokenSha256/v1': hex },
      },
    ])
  })

  test('the fingerprint stays when the token moves', async () => {
    const directory = join(temporary, 'moving')
    const fingerprints: unknown[] = []
    for (const files of [{ a: token }, { a: '', 'b/c': `\n\n  ${token}` }]) {
      writeFiles(directory, files)
      fingerprints.push(written(await scan([directory]), directory).runs[0]?.results.map((result) => result.fingerprints))
    }
    expect(fingerprints).toEqual([[{ 'tokenSha256/v1': hex }], [{ 'tokenSha256/v1': hex }]])
  })

  test('a history: paths from the root, commits, messages, names', async () => {
    const repository = new TestRepository(join(temporary, 'repository'))
    const commit = repository.commit(`told ${token}`, { 'lib/a': token })
    const sarif = written(await scan([repository.path], { of: 'history' }), repository.path)
    const [, environment, keyId] = token.split('_')
    const found = `Key ${keyId} of environment ${environment}`
    expect(sarif.runs[0]?.results.map(({ message }) => message.text)).toEqual([
      `${found}, commit ${commit}`,
      `${found} in a message, commit ${commit}`,
    ])
    writeFiles(repository.path, { [token]: 'x' })
    const named = written(await scan([repository.path], { of: 'files' }), repository.path)
    expect(named.runs[0]?.results.map(({ message }) => message.text)).toContain(`${found} in a name`)
  })

  test('what could not be read is told, and the run was no success', async () => {
    const report = await scan([temporary])
    const sarif = written(
      { ...report, unread: 1, unreadable: [{ path: '/elsewhere/x', reason: 'permission denied' }] },
      temporary,
    )
    expect(sarif.runs[0]?.invocations).toMatchObject([
      {
        executionSuccessful: false,
        toolExecutionNotifications: [
          {
            message: { text: 'Could not be read: permission denied' },
            locations: [{ physicalLocation: { artifactLocation: { uri: 'file:///elsewhere/x' } } }],
          },
        ],
      },
    ])
  })

  test('nothing found is a report too', async () => {
    const directory = join(temporary, 'clean')
    writeFiles(directory, { a: 'nothing' })
    const [run] = written(await scan([directory]), directory).runs
    expect(run).toMatchObject({ results: [], invocations: [{ executionSuccessful: true, toolExecutionNotifications: [] }] })
  })
})
