/** A client that calls one gateway over a connection of its own, again and again, so that the first refusal is seen when it comes. */
import { setTimeout as pause } from 'node:timers/promises'
import { Client } from 'undici'
import type { GatewayAddress } from './house.ts'

/** Between an answer and the next request: what a refusal may be seen too late. */
const EVERY_MS = 4

/** Milliseconds of the epoch, with their fractions: to be compared with what other processes on this machine have noted. */
export const now = (): number => performance.timeOrigin + performance.now()

export class Caller {
  readonly gatewayId: string
  readonly #client: Client
  readonly #running: Promise<void>
  #token: string
  #stopped = false
  #accepted = 0
  #refused: (at: number) => void = () => {}

  constructor({ id, url }: GatewayAddress, token: string) {
    this.gatewayId = id
    this.#token = token
    this.#client = new Client(url)
    this.#running = this.#call()
  }

  /** How often the present token has been accepted. */
  get accepted(): number {
    return this.#accepted
  }

  /** Calls with another token from now on. @returns when it was first seen refused, in milliseconds of the epoch */
  use(token: string): Promise<number> {
    this.#token = token
    this.#accepted = 0
    return new Promise((resolve) => {
      this.#refused = resolve
    })
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
    await this.#client.close()
  }

  async #call(): Promise<void> {
    while (!this.#stopped) {
      const token = this.#token
      const headers = { authorization: `Bearer ${token}` }
      const { statusCode, body } = await this.#client.request({ method: 'GET', path: '/v1/orders', headers })
      await body.dump()
      if (token === this.#token) {
        if (statusCode === 200) this.#accepted += 1
        else if (statusCode === 401) this.#refused(now())
        else throw new Error(`gateway ${this.gatewayId} answered ${statusCode}`)
      }
      await pause(EVERY_MS)
    }
  }
}
