/**
 * A program that knows nothing of rotations, of which there are many beside one agent: its key is in a file, which it reads at the start and at SIGHUP. Its job and what it
 * says are those of `program.ts`.
 */
import { readFileSync, writeFileSync, writeSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import type { Job, Said } from './program.ts'

const { keyFile = '', gateways, perSecond } = JSON.parse(process.env['JOB'] ?? '') as Job
const say = (said: Said): void => void writeSync(1, `${JSON.stringify(said)}\n`)

let key = ''
const read = (): void => {
  key = readFileSync(keyFile, 'utf8')
}
let stopping = false
let used: string | undefined

async function call(turn: number): Promise<void> {
  const shown = key
  try {
    const response = await fetch(`${gateways[turn % gateways.length]}/v1/orders?turn=${turn}`, {
      headers: { authorization: `Bearer ${shown}` },
    })
    await response.text()
    if (response.status !== 200) return say({ says: 'failed', what: String(response.status) })
    const [, , keyId = ''] = shown.split('_')
    if (shown === key && keyId !== used) {
      used = keyId
      say({ says: 'uses', keyId, at: Date.now() })
    }
  } catch (error) {
    say({ says: 'failed', what: error instanceof Error ? `${error.message} ${String(error.cause ?? '')}` : String(error) })
  }
}

read()
process.on('SIGHUP', read)
process.on('SIGTERM', () => {
  stopping = true
})
writeFileSync(`${keyFile}.${process.pid}.pid`, `${process.pid}\n`)
const pauseMs = 1_000 / perSecond
await pause(Math.random() * pauseMs)
for (let turn = Math.floor(Math.random() * gateways.length); !stopping; turn++) {
  const next = performance.now() + pauseMs
  void call(turn)
  await pause(Math.max(0, next - performance.now()))
}
