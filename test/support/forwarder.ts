/** A TCP forwarder before a server, so that one test loses the server and the others keep it. */
import { connect, createServer, type Socket } from 'node:net'
import { inject } from 'vitest'
import { kafkaClient } from './servers.ts'

export interface Forwarder {
  /** Where it listens: `host:port`. */
  readonly address: string
  /** Breaks every connection and refuses new ones. */
  cut(): void
  /** Keeps connections open and lets nothing through: a network that swallows packets. */
  swallow(): void
  /** Lets requests through and swallows the answers: the server does what it is told, and nobody hears of it. */
  mute(): void
  /** Holds everything back, and loses none of it: what was held is passed on by `restore`. */
  hold(): void
  restore(): void
  close(): void
}

interface ForwarderOptions {
  /** Puts the forwarder's port where the server's answers say its own, so that a client never goes around it. */
  readonly rewrite?: boolean
}

/** @param target `host:port` of the server */
export async function startForwarder(target: string, { rewrite = false }: ForwarderOptions = {}): Promise<Forwarder> {
  const { hostname: host, port: targetPort } = new URL(`tcp://${target}`)
  const sockets = new Set<Socket>()
  let state: 'open' | 'cut' | 'swallow' | 'mute' | 'hold' = 'open'
  let own: Buffer = Buffer.alloc(0)
  const named = (port: number): Buffer => {
    const bytes = Buffer.alloc(host.length + 4)
    bytes.write(host, 'latin1')
    bytes.writeInt32BE(port, host.length)
    return bytes
  }
  const advertised = named(Number(targetPort))
  const server = createServer((inside) => {
    if (state === 'cut') return void inside.destroy()
    const outside = connect(Number(targetPort), host)
    outside.setNoDelay(true)
    inside.setNoDelay(true)
    for (const [socket, other] of [
      [inside, outside],
      [outside, inside],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    inside.on('data', (data) => void (state !== 'swallow' && outside.write(data)))
    outside.on('data', (data) => {
      if (state === 'swallow' || state === 'mute') return
      if (rewrite) for (let at = data.indexOf(advertised); at >= 0; at = data.indexOf(advertised, at + 1)) own.copy(data, at)
      inside.write(data)
    })
    // A listener for data makes a socket flow again.
    if (state === 'hold') for (const socket of [inside, outside]) socket.pause()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const bound = server.address()
  if (bound === null || typeof bound === 'string') throw new Error('not a TCP address')
  own = named(bound.port)
  const breakAll = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  return {
    address: `${host}:${bound.port}`,
    cut() {
      state = 'cut'
      breakAll()
    },
    swallow: () => {
      state = 'swallow'
    },
    mute: () => {
      state = 'mute'
    },
    hold() {
      state = 'hold'
      for (const socket of sockets) socket.pause()
    },
    restore() {
      if (state === 'hold') for (const socket of sockets) socket.resume()
      // What was swallowed is missing from the old connections.
      else breakAll()
      state = 'open'
    },
    close() {
      state = 'cut'
      breakAll()
      server.close()
    },
  }
}

/** Before the broker of this test run, by the name that it tells its clients. */
export async function forwardKafka(): Promise<Forwarder> {
  const admin = kafkaClient().admin()
  await admin.connect()
  const [broker, ...more] = (await admin.describeCluster()).brokers
  await admin.disconnect()
  if (broker === undefined || more.length > 0) throw new Error('the forwarder stands before exactly one broker')
  return startForwarder(`${broker.host}:${broker.port}`, { rewrite: true })
}

/** Before the Temporal of this test run. */
export const forwardTemporal = (): Promise<Forwarder> => startForwarder(inject('temporalAddress'))

/** Before the PostgreSQL of a database. @returns the database's address through the forwarder, too */
export async function forwardPostgres(databaseUrl: string): Promise<Forwarder & { readonly url: string }> {
  const url = new URL(databaseUrl)
  const forwarder = await startForwarder(url.host)
  url.host = forwarder.address
  return { ...forwarder, url: url.href }
}
