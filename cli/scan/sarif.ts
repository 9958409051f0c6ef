/** A scan's report as SARIF 2.1.0 (OASIS), for code scanning pages. It holds no token and no line of the files. */
import { relative, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Finding, ScanReport, Unreadable } from './findings.ts'

const RULE = 'keyturn-token'
const SCHEMA = 'https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json'
const BASE = '%SRCROOT%'

/** @param root what relative paths in the report are relative to */
export function sarifOf(report: ScanReport, root: string): object {
  const rule = {
    id: RULE,
    name: 'KeyturnToken',
    shortDescription: { text: 'An API key is in the open' },
    fullDescription: { text: 'A token with a right checksum: whoever can read this can use the key until it is revoked.' },
    help: { text: 'Removing it does not help: report it as leaked, so that the key is revoked and its client gets a new one.' },
    defaultConfiguration: { level: 'error' },
    properties: { tags: ['security'], precision: 'very-high', 'security-severity': '9.1' },
  }
  return {
    $schema: SCHEMA,
    version: '2.1.0',
    runs: [
      {
        tool: { driver: { name: 'keyturn', rules: [rule] } },
        columnKind: 'unicodeCodePoints',
        originalUriBaseIds: { [BASE]: { uri: `${pathToFileURL(root).href.replace(/\/$/, '')}/` } },
        invocations: [
          {
            executionSuccessful: report.unread === 0,
            toolExecutionNotifications: report.unreadable.map((each) => notificationOf(each, root)),
          },
        ],
        results: report.findings.map((finding) => resultOf(finding, root)),
      },
    ],
  }
}

function resultOf(finding: Finding, root: string): object {
  const { path, commit, object, inName, line, column, length, keyId, brand, environment, fingerprint } = finding
  const region = inName ? {} : { region: { startLine: line, startColumn: column, endColumn: column + length } }
  const where = [
    ...(inName ? [' in a name'] : []),
    ...(path === undefined ? [' in a message'] : []),
    ...(commit === undefined ? [] : [`, commit ${commit}`]),
  ]
  return {
    ruleId: RULE,
    ruleIndex: 0,
    level: 'error',
    message: { text: `Key ${keyId} of environment ${environment}${where.join('')}` },
    locations: path === undefined ? [] : [{ physicalLocation: { artifactLocation: artifactOf(path, root), ...region } }],
    fingerprints: { 'tokenSha256/v1': fingerprint.slice('sha256:'.length) },
    properties: {
      keyId,
      brand,
      environment,
      ...(commit === undefined ? {} : { commit }),
      ...(object === undefined ? {} : { object }),
    },
  }
}

const notificationOf = ({ path, reason }: Unreadable, root: string): object => ({
  level: 'error',
  message: { text: `Could not be read: ${reason}` },
  locations: [{ physicalLocation: { artifactLocation: artifactOf(path, root) } }],
})

function artifactOf(path: string, root: string): object {
  const full = resolve(root, path)
  const below = relative(root, full)
  if (below.startsWith('..')) return { uri: pathToFileURL(full).href }
  return { uri: below.split('/').map(encodeURIComponent).join('/'), uriBaseId: BASE }
}
