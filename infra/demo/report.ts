import type { GatewayReceipt, Receipt, TimelineEntry } from '@keyturn/contract'

/** What `npm start` prints at the end, and as JSON with `--json`. */
export interface DemoReport {
  readonly rotationId: string
  readonly credentialId: string
  readonly stage: string
  readonly timeline: readonly TimelineEntry[]
  readonly receipts: readonly Receipt[]
  readonly requests: number
  readonly failed: number
  readonly withNewKey: number
  readonly repeatedWithOldKey: number
  readonly ok: boolean
}

/** The report for a person: timeline, receipts, and the closing line `requests N, failed N`. */
export function printReport(report: DemoReport, write: (line: string) => void): void {
  const start = Date.parse(report.timeline[0]?.at ?? '')
  write('')
  write(`rotation ${report.rotationId}`)
  for (const { stage, at, reason } of report.timeline) {
    const seconds = ((Date.parse(at) - start) / 1000).toFixed(3).padStart(8)
    write(`  ${seconds} s  ${stage.padEnd(13)}${reason === undefined ? '' : `  ${reason}`}`)
  }
  write('receipts')
  for (const { event, keyId, gateways, unconfirmed } of report.receipts) {
    const confirmed = gateways.map(({ gatewayId, ms }: GatewayReceipt) => `${gatewayId} ${ms} ms`).join(', ')
    const missing = unconfirmed.length === 0 ? '' : `  unconfirmed: ${unconfirmed.join(', ')}`
    write(`  ${event.replace('keyturn.key.', '').padEnd(13)} ${keyId}  ${confirmed}${missing}`)
  }
  write(
    `clients: ${report.withNewKey} requests with the new key, ${report.repeatedWithOldKey} repeated with the old one after the new was refused`,
  )
  write(`requests ${report.requests}, failed ${report.failed}`)
}
