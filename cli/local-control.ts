/** Orders to the `npm start` on this machine: what a drill stops is started again when this connection ends, however it ends. */
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Answer, Order } from '../infra/demo/orders.ts'
import type { ServiceName } from '../infra/stack/index.ts'
import { Failure } from './failure.ts'

export interface LocalControl {
  /** Resolves when the order is carried out. @throws Failure when it can not be */
  order(order: Order): Promise<void>
  /** Has everything put back. */
  end(): Promise<void>
}

/**
 * @param directory where the run's `local.json` is
 * @param servers those that will be stopped; others' are refused
 */
export async function connectControl(directory: string, servers: readonly ServiceName[]): Promise<LocalControl> {
  const connection = await open(directory)
  const answers = createInterface({ input: connection })[Symbol.asyncIterator]()
  async function order(order: Order): Promise<void> {
    connection.write(`${JSON.stringify(order)}\n`)
    const { value, done } = await answers.next()
    if (done === true) throw new Failure('`npm start` has ended while the drill was under way')
    const { error } = JSON.parse(value) as Answer
    if (error !== undefined) throw new Failure(error)
  }
  try {
    await order({ do: 'begin', servers })
  } catch (error) {
    connection.destroy()
    throw error
  }
  return { order, end: () => order({ do: 'end' }).finally(() => void connection.destroy()) }
}

async function open(directory: string): Promise<Socket> {
  try {
    const { controlSocket } = await import('../infra/demo/orders.ts')
    const connection = connect(controlSocket(readFileSync(join(directory, 'owner'), 'utf8')))
    await new Promise<void>((resolve, reject) => connection.once('connect', resolve).once('error', reject))
    connection.on('error', () => {})
    return connection
  } catch (error) {
    const hint = 'It does once it says `running on`. With `--once` it never does.'
    throw new Failure('`npm start` takes no orders from drills yet', hint, { cause: error })
  }
}
