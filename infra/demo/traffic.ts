/** One credential, clients that call all the time, one rotation. */
import { isTerminal, type Program, type RotationStage } from '@keyturn/contract/rotation'
import type { Local } from './house.ts'
import { type Processes, plainEnvironment } from './processes.ts'
import type { DemoReport } from './report.ts'

const CONNECTIONS = 12
const REQUESTS_PER_SECOND = 300
/** How much later than the others one connection switches: what monitoring visibly waits for. */
const SLOW_MS = 6_000
const WINDOWS = { overlap: '2m', quietPeriod: '3s', regretWindow: '3s' } as const
const LOOK_AGAIN_MS = 250
/** A rotation that has not ended by then waits for a person. */
const LONGEST_MS = 5 * 60_000

type RotationView = Pick<DemoReport, 'timeline' | 'receipts'> & {
  readonly stage: RotationStage
  readonly switchover?: { readonly programs: readonly Pick<Program, 'userAgent' | 'newFirstAt'>[] }
}

export async function rotateUnderTraffic(
  local: Local,
  processes: Processes,
  expected: RotationStage,
  say: (line: string) => void,
): Promise<DemoReport> {
  const call = async <T>(method: 'GET' | 'POST', path: string, body?: object): Promise<T> => {
    const response = await fetch(local.api + path, {
      method,
      headers: { authorization: `Bearer ${local.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const answer = (await response.json()) as T & { detail?: string }
    if (response.ok) return answer
    throw new Error(`${method} ${path.replace(/claims\/.*/, 'claims/…')}: ${response.status} ${answer.detail ?? ''}`)
  }
  const { clientId } = await call<{ clientId: string }>('POST', '/v1/clients', { name: 'Acme Trading' })
  const { credentialId, claim } = await call<{ credentialId: string; claim: string }>(
    'POST',
    `/v1/clients/${clientId}/credentials`,
    { name: 'price-feed', environment: 'prod', scopes: ['read:prices'] },
  )
  const { token } = await call<{ token: string }>('POST', `/v1/claims/${claim}`, {})

  let counts = { requests: 0, failed: 0, withNewKey: 0, repeatedWithOldKey: 0 }
  const clients = processes.start({
    name: 'clients',
    file: 'infra/demo/sample-clients.ts',
    env: plainEnvironment(),
    input: JSON.stringify({
      gateways: local.gateways,
      api: local.api,
      token,
      connections: CONNECTIONS,
      requestsPerSecond: REQUESTS_PER_SECOND,
      slowMs: SLOW_MS,
    }),
    onLine: (line) => {
      const counted = JSON.parse(line) as typeof counts | { note: string }
      if ('note' in counted) say(`  clients: ${counted.note}`)
      else counts = counted
    },
  })
  while (counts.requests < REQUESTS_PER_SECOND) await pause(LOOK_AGAIN_MS)
  say(`clients call ${local.gateways.length} gateways: ${CONNECTIONS} connections, ${REQUESTS_PER_SECOND} requests a second`)

  const { rotationId } = await call<{ rotationId: string }>('POST', `/v1/credentials/${credentialId}/rotations`, {
    trigger: 'manual',
    reason: 'npm start',
    ...WINDOWS,
  })
  const rotation = await follow(() => call<RotationView>('GET', `/v1/rotations/${rotationId}`), say)
  // A little traffic after the end, too: whatever was broken shows now.
  await pause(1_000)
  await clients.stop()
  return {
    rotationId,
    credentialId,
    stage: rotation.stage,
    timeline: rotation.timeline,
    receipts: rotation.receipts,
    ...counts,
    ok: rotation.stage === expected && counts.failed === 0 && counts.requests > 0,
  }
}

/** Prints each stage as it comes, and in monitoring who is still waited for. */
async function follow(read: () => Promise<RotationView>, say: (line: string) => void): Promise<RotationView> {
  const giveUp = Date.now() + LONGEST_MS
  let shown = 0
  let waitedFor = ''
  for (;;) {
    const rotation = await read()
    for (const { stage, reason } of rotation.timeline.slice(shown)) say(`  ${stage}${reason === undefined ? '' : `: ${reason}`}`)
    shown = rotation.timeline.length
    if (isTerminal(rotation.stage) || Date.now() > giveUp) return rotation
    if (rotation.stage === 'monitoring') {
      const waiting = rotation.switchover?.programs.filter(({ newFirstAt }) => newFirstAt === undefined) ?? []
      const names = waiting
        .map(({ userAgent }) => userAgent)
        .sort()
        .join(', ')
      if (names !== waitedFor && names !== '') say(`    still uses the old key: ${names}`)
      waitedFor = names
    }
    await pause(LOOK_AGAIN_MS)
  }
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
