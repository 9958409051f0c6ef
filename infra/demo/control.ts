/**
 * Lets a drill stop and start the servers and processes of this run. It lasts as long as the drill is connected: when that ends,
 * however it ends, everything is put back. One drill at a time.
 */
import { mkdirSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { runDirectory } from '../stack/guard.ts'
import { type ControlOptions, createDrilling } from './drilling.ts'
import { type Answer, controlSocket, type Order } from './orders.ts'

export interface Control {
  /** Rejects when something could not be put back: this run is not what it was. */
  readonly failed: Promise<never>
  /** Takes no further order, and puts nothing back: all of it is about to end. */
  close(): void
}

export async function startControl(options: ControlOptions): Promise<Control> {
  const socket = controlSocket(runDirectory())
  // Nobody else passes: who may connect may do all of it.
  mkdirSync(dirname(socket), { mode: 0o700 })
  let fail: (error: unknown) => void = () => {}
  const failed = new Promise<never>((_, reject) => {
    fail = reject
  })
  failed.catch(() => {})
  let closed = false
  let busy = false
  const server = createServer((connection) => {
    connection.on('error', () => {})
    if (busy) return void connection.end(line({ error: 'Another drill is under way' }))
    busy = true
    const served = async (): Promise<void> => {
      const drilling = createDrilling(options)
      await obey(connection, async (order) => {
        if (closed) throw new Error('Everything is being stopped')
        await drilling.obey(order)
      })
      if (!closed) await drilling.putBack()
      busy = false
    }
    served().catch((error: unknown) => closed || fail(error))
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(socket, resolve))
  return {
    failed,
    close() {
      closed = true
      server.close()
    },
  }
}

const line = (answer: Answer): string => `${JSON.stringify(answer)}\n`

/** One order after the other. Resolves when the drill is gone. */
async function obey(connection: Socket, carryOut: (order: Order) => Promise<void>): Promise<void> {
  try {
    for await (const text of createInterface({ input: connection })) {
      const answer = await carryOut(JSON.parse(text) as Order).then(
        () => ({}),
        (error: unknown) => ({ error: error instanceof Error ? error.message : String(error) }),
      )
      connection.write(line(answer))
    }
  } catch {
    // No drill, or one that was cut off within a line.
  }
  connection.destroy()
}
