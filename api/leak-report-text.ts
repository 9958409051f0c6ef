/** An incident report as JSON, and as Markdown for people. */
import { formatDuration } from '@keyturn/contract'
import type { IncidentReport } from '../registry/leak-report.ts'
import type { UsageSinceLeak } from '../registry/leak-usage.ts'
import { given, isoOf } from './routes.ts'

export const incidentBody = ({ leak, sightings, client, credential, rotation, told, usage, ...report }: IncidentReport) => ({
  leakId: leak.leakId,
  status: leak.status,
  matched: leak.matched,
  reportedAt: leak.reportedAt.toISOString(),
  ...given('response', leak.response),
  ...given('containedAt', isoOf(leak.containedAt)),
  ...given('closedAt', isoOf(leak.closedAt)),
  ...given('key', report.key),
  ...given(
    'credential',
    credential && {
      credentialId: credential.credentialId,
      name: credential.name,
      environment: credential.environment,
      scopes: [...credential.scopes],
    },
  ),
  ...given('client', client && { clientId: client.clientId, name: client.name }),
  ...given('rotationId', rotation?.rotationId),
  ...given('newKey', report.newKey),
  sources: sightings.map(({ source, url, reporter, firstAt, times, foundAt }) => ({
    source,
    url,
    reporter,
    firstAt: firstAt.toISOString(),
    times,
    ...given('foundAt', isoOf(foundAt)),
  })),
  timeline: report.timeline.map((entry) => ({ ...entry })),
  told: told.map(({ at, message, to }) => ({ at: at.toISOString(), message, to: [...to] })),
  refusals: report.refusals.map((refusal) => ({ ...refusal })),
  unconfirmed: [...report.unconfirmed],
  ...given('usage', usage && usageBody(usage)),
})

const usageBody = ({ newSources, knownSources, ...usage }: UsageSinceLeak) => ({
  ...usage,
  newSources: newSources.map((source) => ({ ...source })),
  knownSources: knownSources.map((source) => ({ ...source })),
})

/** Sections without content are left out, but not the ones whose emptiness says something. */
export function incidentMarkdown(report: IncidentReport): string {
  const { leak, key, credential, client, newKey, told, refusals, unconfirmed, usage, timeline } = report
  const facts: [string, string][] = [
    ['Status', leak.status],
    [
      'Token',
      {
        live: 'a live key',
        old: 'the old key of a running rotation',
        dead: 'a key that was dead already',
        unknown: 'none of ours',
      }[leak.matched],
    ],
    ['Response', responseText(report)],
    ...(key === undefined ? [] : [['Key', `${key.keyId}, version ${key.version}, now ${key.state}`] satisfies [string, string]]),
    ...(credential === undefined
      ? []
      : [
          [
            'Credential',
            `${credential.credentialId} "${credential.name}", ${credential.environment}, ${credential.scopes.join(' ')}`,
          ] satisfies [string, string],
        ]),
    ...(client === undefined ? [] : [['Client', `${client.clientId} "${client.name}"`] satisfies [string, string]]),
    ...(newKey === undefined
      ? []
      : [
          [
            'New key',
            `${newKey.keyId}, version ${newKey.version}, ${newKey.firstUsedAt === undefined ? 'not used yet' : `first used ${newKey.firstUsedAt}`}`,
          ] satisfies [string, string],
        ]),
  ]
  const sections = [
    `# Leak ${leak.leakId}`,
    table(['', ''], facts),
    `## Timeline\n\n${table(
      ['at', 'what'],
      timeline.map(({ at, what }) => [at, what]),
    )}`,
    `## Sources\n\n${table(
      ['source', 'where', 'reported through', 'first', 'times'],
      report.sightings.map((seen) => [seen.source, seen.url, seen.reporter, seen.firstAt.toISOString(), String(seen.times)]),
    )}`,
  ]
  if (key !== undefined) {
    sections.push(
      `## Who was told\n\n${
        told.length === 0
          ? 'Nobody: the client has no contacts, or was not told yet.'
          : table(
              ['at', 'message', 'to'],
              told.map(({ at, message, to }) => [at.toISOString(), message, to.join(', ')]),
            )
      }`,
      `## Gateways that refuse the key\n\n${
        refusals.length === 0
          ? 'None yet.'
          : table(
              ['gateway', 'since', 'after'],
              refusals.map(({ gatewayId, refusedAt, ms }) => [gatewayId, refusedAt, formatDuration(ms)]),
            )
      }${unconfirmed.length === 0 ? '' : `\n\nNot confirmed: ${unconfirmed.map(plain).join(', ')}`}`,
    )
  }
  if (usage !== undefined) sections.push(`## Use of the key since the report\n\n${usageText(usage)}`)
  return `${sections.join('\n\n')}\n`
}

const responseText = ({ leak }: IncidentReport): string => {
  if (leak.response === 'at-once') return 'compromised at once'
  if (leak.response === 'overlap') return `replaced; the old key dies within ${formatDuration(leak.overlapMs ?? 0)}`
  return leak.matched === 'unknown'
    ? 'recorded'
    : leak.response === undefined && leak.status !== 'closed'
      ? 'not begun yet'
      : 'recorded; the key needed no rotation'
}

function usageText(usage: UsageSinceLeak): string {
  const { requests, refused, knownThrough, newSources, knownSources, sourcesComplete } = usage
  const known = knownThrough === undefined ? 'Use is not known: a gateway has reported nothing.' : `Known up to ${knownThrough}.`
  const head = `${requests} requests served, ${refused} refused. ${known} Requests of the seconds before the report may be among them.`
  const rows = [
    ...newSources.map((source) => ['**new**', source] as const),
    ...knownSources.map((source) => ['known before', source] as const),
  ].map(([kind, { address, userAgent, count, lastAt }]) => [kind, address, userAgent, String(count), lastAt])
  const verdict =
    newSources.length > 0
      ? `${newSources.length} sources had not been seen with this key before: somebody else may have used it.`
      : 'No source that had not been seen with this key before.'
  const doubt = sourcesComplete
    ? ''
    : ' So many sources use this key that not all of them are remembered: a new one may be an old one.'
  return [
    head,
    `${verdict}${doubt}`,
    ...(rows.length === 0 ? [] : [table(['source', 'address', 'user agent', 'requests', 'last'], rows)]),
  ].join('\n\n')
}

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head.map(plain), head.map(() => '---'), ...rows.map((row) => row.map((cell) => (cell === '**new**' ? cell : plain(cell))))]
    .map((row) => `| ${row.join(' | ')} |`)
    .join('\n')

/** What outsiders wrote stays text: no line breaks, no markup. */
const plain = (text: string): string =>
  text.replace(/\p{Cc}/gu, ' ').replace(/[\\`*[\]<>|#~]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])/g, '\\$&')
