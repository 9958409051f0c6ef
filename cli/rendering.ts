/** Rotations and credentials as text. */
import type { Receipt, Switchover, TimelineEntry } from '@keyturn/contract/rotation'
import type { CredentialAnswer, RotationAnswer, RotationSummary } from './answers.ts'
import { type Output, plain, table } from './output.ts'

export const clock = (at: string): string => at.replace('T', ' ').replace(/\.\d+Z$/, 'Z')

export function stageLine({ stage, at, reason }: TimelineEntry, output: Output): string {
  return `${output.paint('dim', clock(at))}  ${output.stage(stage)}${reason === undefined ? '' : `  ${plain(reason)}`}`
}

export function receiptLine(receipt: Receipt, output: Output): string {
  const { keyId, event, publishedAt, gateways, unconfirmed } = receipt
  const slowest = Math.max(0, ...gateways.map(({ ms }) => ms))
  const applied =
    gateways.length === 0 ? 'no gateway' : `${gateways.length} gateway${gateways.length === 1 ? '' : 's'} in ${slowest} ms`
  const missing = unconfirmed.length === 0 ? '' : output.paint('yellow', `; unconfirmed: ${unconfirmed.join(', ')}`)
  return `${output.paint('dim', clock(publishedAt))}  receipt: ${event.replace('keyturn.key.', '')} ${keyId}  ${applied}${missing}`
}

export function rotationText(rotation: RotationAnswer, output: Output): string {
  const { evidence } = rotation
  const lines = [
    `${rotation.rotationId}  ${output.stage(rotation.stage)}${rotation.heldFor === undefined ? '' : ` (for: ${rotation.heldFor})`}`,
    `credential  ${rotation.credentialId}`,
    `trigger     ${rotation.trigger}: ${plain(rotation.reason)}`,
  ]
  if (rotation.oldKeyId !== undefined)
    lines.push(`old key     ${rotation.oldKeyId}  last used ${seen(evidence.oldKeyLastUsedAt)}`)
  if (rotation.newKeyId !== undefined)
    lines.push(
      `new key     ${rotation.newKeyId}  ${evidence.awaitsEnrolment === true ? 'not enrolled yet' : `first used ${seen(evidence.newKeyFirstUsedAt)}`}`,
    )
  if (rotation.deadline !== undefined) lines.push(`deadline    ${clock(rotation.deadline)}`)
  if (rotation.unconfirmed.length > 0) lines.push(`waits for   ${rotation.unconfirmed.join(', ')}`)
  lines.push('', ...rotation.timeline.map((entry) => stageLine(entry, output)))
  lines.push(...rotation.receipts.map((receipt) => receiptLine(receipt, output)))
  const { switchover } = rotation
  if (switchover !== undefined && switchover.total > 0) lines.push('', ...switchoverLines(switchover, evidence.doneAt))
  if (evidence.stragglers.length > 0) lines.push('', 'Still using the old key:', stragglersText(evidence.stragglers))
  return lines.join('\n')
}

function switchoverLines({ programs, moved, total, perHour, doneAt }: Switchover, saidAt: string | undefined): string[] {
  const pace =
    perHour === undefined || doneAt === undefined ? '' : `, ${perHour} an hour: all of them ${clock(doneAt)} at this rate`
  const lines = [`${moved} of ${total} programs have switched over${pace}`]
  if (saidAt !== undefined) lines.push(`the client has said at ${clock(saidAt)} that it is done`)
  const rows = programs.map((program) => [
    plain(program.addresses),
    program.movedAt === undefined ? 'no' : clock(program.movedAt),
    seen(program.oldLastAt),
    seen(program.newFirstAt),
    plain(program.userAgent),
  ])
  return [...lines, table(['addresses', 'moved', 'old key last', 'new key first', 'user agent'], rows)]
}

const seen = (at: string | undefined): string => (at === undefined ? 'never' : clock(at))

const stragglersText = (stragglers: RotationAnswer['evidence']['stragglers']): string =>
  table(
    ['address', 'requests', 'last', 'user agent'],
    stragglers.map(({ address, count, lastAt, userAgent }) => [plain(address), String(count), clock(lastAt), plain(userAgent)]),
  )

export function rotationsText(rotations: readonly RotationSummary[], output: Output): string {
  if (rotations.length === 0) return 'no rotations'
  return table(
    ['rotation', 'stage', 'trigger', 'credential', 'opened'],
    rotations.map((rotation) => [
      rotation.rotationId,
      output.stage(rotation.stage),
      rotation.trigger,
      rotation.credentialId,
      clock(rotation.openedAt),
    ]),
  )
}

/** How its new keys reach the client. */
function deliveryText({ method, recipient, address, mount, path, region, secretId }: CredentialAnswer['delivery']): string {
  const where = [
    address,
    mount === undefined ? path : `${mount}/${path}`,
    region,
    secretId,
    recipient && `to the key with x ${recipient.x}`,
  ]
  return plain([method, ...where.filter((part) => part !== undefined)].join(' '))
}

export function credentialText(credential: CredentialAnswer): string {
  const lines = [
    `${credential.credentialId}  ${plain(credential.name)}  ${credential.environment}`,
    `client      ${credential.clientId}`,
    `kind        ${credential.kind}`,
    `scopes      ${credential.scopes.join(' ')}`,
  ]
  if (credential.allow?.addresses !== undefined) lines.push(`addresses   ${credential.allow.addresses.join(' ')}`)
  if (credential.allow?.methods !== undefined) lines.push(`methods     ${credential.allow.methods.join(' ')}`)
  if (credential.allow?.sequence !== undefined) lines.push(`sequence    ${credential.allow.sequence}`)
  lines.push(`delivery    ${deliveryText(credential.delivery)}`)
  if (credential.policy !== undefined) lines.push(`policy      ${credential.policy}`)
  if (credential.rotationId !== undefined) lines.push(`rotation    ${credential.rotationId}`)
  const rows = credential.keys.map((key) => [
    `v${key.version}`,
    key.keyId,
    key.state,
    key.standing,
    seen(key.lastUsedAt),
    key.sunsetAt === undefined ? '' : clock(key.sunsetAt),
  ])
  lines.push('', table(['version', 'key', 'state', 'standing', 'last used', 'sunset'], rows))
  if (credential.stragglers.length > 0) lines.push('', 'Still using the old key:', stragglersText(credential.stragglers))
  return lines.join('\n')
}
