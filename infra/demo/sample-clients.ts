/**
 * The client's programs: some connections that call the API through the gateways all the time. Each sees by itself that its
 * key is to be replaced; the first to see it claims the successor for all. One of them is slow to switch.
 * Reads `{gateways, api, token, connections, requestsPerSecond, slowMs}` as one line from standard input, and writes what it
 * has counted as JSON lines, and a last one when it is told to stop.
 */
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { HEADERS } from '@keyturn/contract/headers'
import { Pool, request } from 'undici'

interface Job {
  readonly gateways: readonly string[]
  readonly api: string
  readonly token: string
  readonly connections: number
  readonly requestsPerSecond: number
  readonly slowMs: number
}

const RETRY_NEW_KEY_MS = 500
const TIMEOUT_MS = 10_000

const [line] = (await once(createInterface({ input: process.stdin }), 'line')) as [string]
const job = JSON.parse(line) as Job

const counts = { requests: 0, failed: 0, withNewKey: 0, repeatedWithOldKey: 0 }
let successor: Promise<string | undefined> | undefined
let stopping = false

/** Fetches the successor once for all connections, by showing the old key. */
function claimSuccessor(oldToken: string): Promise<string | undefined> {
  successor ??= request(`${job.api}/v1/successor`, { method: 'POST', headers: { authorization: `Bearer ${oldToken}` } }).then(
    async ({ statusCode, body }) => {
      const answer = (await body.json()) as { token?: string; code?: string }
      if (statusCode !== 200) console.log(JSON.stringify({ note: `no successor: ${statusCode} ${answer.code ?? ''}` }))
      return answer.token
    },
  )
  return successor
}

/** One connection: a request every now and then, each to be got through with one of the keys it holds. */
async function connection(gateway: string, slowMs: number, userAgent: string): Promise<void> {
  const pool = new Pool(gateway, { connections: 1 })
  const pauseMs = (1_000 * job.connections) / job.requestsPerSecond
  let tokens = [job.token]
  let tryNewAt = 0

  const call = async (token: string): Promise<{ ok: boolean; rotating: boolean }> => {
    const { statusCode, headers, body } = await pool.request({
      method: 'GET',
      path: '/v1/ticker',
      headers: { authorization: `Bearer ${token}`, 'user-agent': userAgent },
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
    })
    await body.dump()
    return { ok: statusCode === 200, rotating: headers[HEADERS.rotation] !== undefined }
  }

  while (!stopping) {
    const started = performance.now()
    counts.requests += 1
    let through = false
    let newRefused = false
    for (const token of tokens) {
      if (token !== job.token && Date.now() < tryNewAt) continue
      try {
        const { ok, rotating } = await call(token)
        if (ok && token !== job.token) counts.withNewKey += 1
        else if (ok && newRefused) counts.repeatedWithOldKey += 1
        if (!ok && token !== job.token) {
          newRefused = true
          tryNewAt = Date.now() + RETRY_NEW_KEY_MS
        }
        if (rotating && tokens.length === 1) {
          const next = await claimSuccessor(token)
          if (next !== undefined) {
            tokens = [next, job.token]
            tryNewAt = Date.now() + slowMs
          }
        }
        through = ok
      } catch (error) {
        console.log(JSON.stringify({ note: `a request failed: ${error instanceof Error ? error.message : 'error'}` }))
      }
      if (through) break
    }
    if (!through) counts.failed += 1
    await sleep(Math.max(0, pauseMs - (performance.now() - started)))
  }
  await pool.close()
}

process.on('SIGTERM', () => {
  stopping = true
})
const report = setInterval(() => console.log(JSON.stringify(counts)), 500)
await Promise.all(
  Array.from({ length: job.connections }, (_, i) => {
    const gateway = job.gateways[i % job.gateways.length]
    if (gateway === undefined) throw new Error('there is no gateway to call')
    const slow = i === job.connections - 1
    return connection(gateway, slow ? job.slowMs : 0, slow ? 'batch-importer/1.0' : `price-watcher/2.${i}`)
  }),
)
clearInterval(report)
console.log(JSON.stringify(counts))
