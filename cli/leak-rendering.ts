/** Leaks as text. */
import type { IncidentAnswer, LeakSummary } from './answers.ts'
import { type Output, plain, table } from './output.ts'
import { clock } from './rendering.ts'

export function leaksText(leaks: readonly LeakSummary[]): string {
  if (leaks.length === 0) return 'no leaks'
  return table(
    ['leak', 'status', 'token', 'response', 'credential', 'reported', 'sightings'],
    leaks.map(({ leakId, status, matched, response, credentialId, reportedAt, sightings }) => [
      leakId,
      status,
      matched,
      response ?? '',
      credentialId ?? '',
      clock(reportedAt),
      String(sightings),
    ]),
  )
}

export function incidentText(incident: IncidentAnswer, output: Output): string {
  const { key, credential, client, newKey, timeline, refusals, unconfirmed, usage } = incident
  const lines = [`${incident.leakId}  ${incident.status}`, `token       ${incident.matched}`]
  if (incident.response !== undefined) lines.push(`response    ${incident.response}`)
  if (key !== undefined) lines.push(`key         ${key.keyId}  v${key.version}  ${key.state}`)
  if (newKey !== undefined)
    lines.push(
      `new key     ${newKey.keyId}  v${newKey.version}  first used ${newKey.firstUsedAt === undefined ? 'never' : clock(newKey.firstUsedAt)}`,
    )
  if (credential !== undefined)
    lines.push(`credential  ${credential.credentialId}  ${plain(credential.name)}  ${credential.environment}`)
  if (client !== undefined) lines.push(`client      ${client.clientId}  ${plain(client.name)}`)
  if (incident.rotationId !== undefined) lines.push(`rotation    ${incident.rotationId}`)
  if (refusals.length > 0) lines.push(`refused by  ${refusals.map(({ gatewayId }) => gatewayId).join(', ')}`)
  if (unconfirmed.length > 0) lines.push(output.paint('yellow', `waits for   ${unconfirmed.join(', ')}`))
  lines.push('', ...timeline.map(({ at, what }) => `${output.paint('dim', clock(at))}  ${plain(what)}`))
  if (usage !== undefined) {
    lines.push('', `${usage.requests} requests served since the report, ${usage.refused} refused`)
    const sources = [
      ...usage.newSources.map((each) => ({ ...each, kind: 'new' })),
      ...usage.knownSources.map((each) => ({ ...each, kind: 'known' })),
    ]
    if (sources.length > 0)
      lines.push(
        table(
          ['source', 'address', 'requests', 'last', 'user agent'],
          sources.map(({ kind, address, count, lastAt, userAgent }) => [
            kind,
            plain(address),
            String(count),
            clock(lastAt),
            plain(userAgent),
          ]),
        ),
      )
  }
  return lines.join('\n')
}
