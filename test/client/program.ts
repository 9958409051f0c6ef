/**
 * A client's program, of which tests start many: calls the API at a steady rate through the gateways, with one file for a store, until it is told to stop or is killed.
 * Reads its job as JSON from the environment (`JOB`); writes a line for each failure at once, and now and then how far it is.
 */
import { createHash, randomBytes } from 'node:crypto'
import { writeSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from '@keyturn/client'
import { fileStore } from '@keyturn/client/node'

export interface Job {
  readonly store: string
  readonly token: string
  readonly api: string
  readonly gateways: readonly string[]
  readonly perSecond: number
  readonly abandonedMs: number
  /** Whether the API says what it was sent, as `echo.ts` does. */
  readonly echoes: boolean
  /** Of `reader.ts`, which runs in place of this program where it is given. */
  readonly keyFile?: string
}

export type Said =
  | { readonly says: 'failed'; readonly what: string }
  | { readonly says: 'requests'; readonly count: number }
  /** A request with this key has been accepted for the first time in this process. */
  | { readonly says: 'uses'; readonly keyId: string; readonly at: number }
  | { readonly says: 'event'; readonly event: string }

const job = JSON.parse(process.env['JOB'] ?? '') as Job
const say = (said: Said): void => void writeSync(1, `${JSON.stringify(said)}\n`)

/** Counted since it was last said. */
let count = 0
let stopping = false
process.on('SIGTERM', () => {
  stopping = true
})

let used: string | undefined
function uses(keyId: string): void {
  if (keyId !== used) say({ says: 'uses', keyId, at: Date.now() })
  used = keyId
}

const client = createClient({
  store: fileStore(job.store),
  credential: job.token,
  api: job.api,
  abandonedMs: job.abandonedMs,
  async fetch(input, init) {
    const response = await fetch(input, init)
    const keyId = new Headers(init?.headers).get('authorization')?.split('_')[2]
    if (response.status === 200 && keyId !== undefined && !String(input).startsWith(job.api)) uses(keyId)
    return response
  },
  onEvent: (event) => say({ says: 'event', event: JSON.stringify(event) }),
})

/** Every fourth has a body, every eighth one that can be read once. */
function bodyOf(turn: number): { bytes?: Uint8Array<ArrayBuffer>; init: RequestInit } {
  if (turn % 4 !== 0) return { init: {} }
  const bytes = new Uint8Array(randomBytes(1_000 + (turn % 7) * 1_000))
  if (turn % 8 !== 0) return { bytes, init: { method: 'POST', body: bytes } }
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(bytes.subarray(0, 500))
      controller.enqueue(bytes.subarray(500))
      controller.close()
    },
  })
  return { bytes, init: { method: 'POST', body, duplex: 'half' } as RequestInit }
}

/** On a machine that others keep busy, a gateway may take no connection for long. Nothing was sent then, and no key was looked at. */
const isUnsent = (error: unknown): boolean =>
  error instanceof Error && (error.cause as { code?: unknown } | undefined)?.code === 'UND_ERR_CONNECT_TIMEOUT'

async function call(turn: number, tries = 1): Promise<void> {
  const gateway = job.gateways[turn % job.gateways.length]
  const { bytes, init } = bodyOf(turn)
  try {
    const response = await client.fetch(`${gateway}/v1/orders?turn=${turn}`, init)
    const text = await response.text()
    const { sha256 } = response.status === 200 && job.echoes ? (JSON.parse(text) as { sha256: string }) : {}
    const expected = createHash('sha256')
      .update(bytes ?? '')
      .digest('hex')
    const right = job.echoes ? sha256 === expected : response.status === 200
    if (!right) say({ says: 'failed', what: `${response.status} ${init.method ?? 'GET'} ${text.slice(0, 200)}` })
  } catch (error) {
    if (isUnsent(error) && tries < 4) return call(turn, tries + 1)
    say({ says: 'failed', what: error instanceof Error ? `${error.message} ${String(error.cause ?? '')}` : String(error) })
  }
  count += 1
}

const under = new Set<Promise<void>>()
/** What a machine can't keep up with is not piled up: the rate gives way. */
const MOST_UNDER_WAY = 20
const pauseMs = 1_000 / job.perSecond
await pause(Math.random() * pauseMs)
for (let turn = Math.floor(Math.random() * 8); !stopping; turn++) {
  const next = performance.now() + pauseMs
  const calling = call(turn).finally(() => under.delete(calling))
  under.add(calling)
  if (count >= 10) {
    say({ says: 'requests', count })
    count = 0
  }
  while (under.size >= MOST_UNDER_WAY) await Promise.race(under)
  await pause(Math.max(0, next - performance.now()))
}
await Promise.all(under)
say({ says: 'requests', count })
await client.close()
