/** Reports of leaks, as their senders make them: signed afresh, and sent over HTTP. */
import { createHmac, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { LeakId } from '@keyturn/contract'
import type { IncidentReport } from '../../registry/leak-report.ts'
import { incidentReport } from '../../registry/leak-report.ts'
import { getLeak, type Leak } from '../../registry/leaks.ts'
import { type Answer, type ServedApi, serveApi } from './api.ts'
import { eventually, type House } from './house.ts'

export interface SigningKey {
  readonly identifier: string
  readonly privateKey: KeyObject
  readonly pem: string
}

export function newSigningKey(): SigningKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return {
    identifier: randomBytes(32).toString('hex'),
    privateKey,
    pem: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  }
}

export const keyList = (...keys: { identifier: string; pem: string; current?: boolean }[]): string =>
  JSON.stringify({
    public_keys: keys.map(({ identifier, pem, current = true }) => ({
      key_identifier: identifier,
      key: pem,
      is_current: current,
    })),
  })

/** A file of its own, with this in it. */
export function fileWith(text: string): string {
  const path = join(mkdtempSync(join(tmpdir(), 'keyturn-')), 'file')
  writeFileSync(path, text)
  return path
}

export const githubHeaders = ({ identifier, privateKey }: SigningKey, body: string): Record<string, string> => ({
  'content-type': 'application/json',
  'github-public-key-identifier': identifier,
  'github-public-key-signature': sign('sha256', Buffer.from(body), privateKey).toString('base64'),
})

export const gitguardianHeaders = (token: string, body: string, at = Date.now()): Record<string, string> => {
  const timestamp = String(Math.floor(at / 1_000))
  const signature = createHmac('sha256', timestamp + token)
    .update(body)
    .digest('hex')
  return { 'content-type': 'application/json', timestamp, 'gitguardian-signature': `sha256=${signature}` }
}

/** A report as it is, with whatever headers its sender puts on it. */
export const post = <T>(api: ServedApi, path: string, body: string, headers: Record<string, string> = {}): Promise<Answer<T>> =>
  api.client.post<T>(path, body, { headers, token: 'none' })

/** The API of a house, in this process, with its clock. */
export const startApi = (house: House): Promise<ServedApi> => serveApi(house, { clock: () => new Date(house.now()) })

export interface ReportAnswer {
  readonly leakId: LeakId
  readonly isNew: boolean
  readonly matched: string
  readonly status: string
}

/** Reports a token as the operator. */
export async function report(
  api: ServedApi,
  leak: { token?: string; tokenSha256?: string; source?: string; url?: string },
): Promise<ReportAnswer> {
  const { status, body } = await api.client.post<ReportAnswer>('/v1/leaks', { source: 'test', ...leak })
  if (status !== 202) throw new Error(`the report was answered with ${status}: ${JSON.stringify(body)}`)
  return body
}

export async function leakOf(house: House, leakId: LeakId): Promise<Leak> {
  const leak = await getLeak(house.db, leakId)
  if (leak === undefined) throw new Error(`there is no leak ${leakId}`)
  return leak
}

/** Waits until a leak is closed, and reads its report. Gateways are asked for their usage: of themselves they wait for a minute. */
export async function closed(house: House, leakId: LeakId, withinMs = 60_000): Promise<IncidentReport> {
  const isClosed = async () => (await leakOf(house, leakId)).status === 'closed' || void (await house.settleUsage())
  await eventually(isClosed, `the end of ${leakId}`, withinMs)
  const found = await incidentReport(house.db, leakId)
  if (found === undefined) throw new Error(`there is no leak ${leakId}`)
  return found
}
