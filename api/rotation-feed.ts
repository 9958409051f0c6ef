/** One PostgreSQL connection that listens for changes of rotations, for everyone who follows one. */
import type { RotationId } from '@keyturn/contract'
import type { Notification, PoolClient } from 'pg'
import type { Log } from '../infra/log.ts'
import type { Database } from '../registry/database.ts'

const CHANNEL = 'keyturn_rotation'
const RECONNECT_MS = 500

export interface RotationFeed {
  /** Calls back after every change of the rotation, and whenever a change may have been missed. Returns what ends it. */
  follow(rotationId: RotationId, changed: () => void): () => void
  stop(): void
}

/** Connects when somebody follows a rotation for the first time, and again whenever the connection is lost. */
export function createRotationFeed(db: Database, log: Log): RotationFeed {
  const followers = new Map<string, Set<() => void>>()
  /** Ends the connection that there is, or that is being made. */
  let drop: ((error: unknown) => void) | undefined
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  const tell = (rotationId: string | undefined): void => {
    const told =
      rotationId === undefined ? [...followers.values()].flatMap((each) => [...each]) : [...(followers.get(rotationId) ?? [])]
    for (const changed of told) changed()
  }

  function connect(): void {
    if (stopped || drop !== undefined) return
    let client: PoolClient | undefined
    let over = false
    // A connection that is lost says so more than once: by an error, by its end, by the statement under way.
    const lost = (error: unknown): void => {
      if (over) return
      over = true
      drop = undefined
      client?.release(true)
      if (stopped) return
      log.warn({ err: error }, 'the connection that listens for rotations is lost; connecting again')
      timer = setTimeout(connect, RECONNECT_MS)
    }
    drop = lost
    db.pool
      .connect()
      .then(async (taken) => {
        if (over) return taken.release(true)
        client = taken
        taken.on('error', lost)
        taken.on('end', () => lost(new Error('the connection has ended')))
        taken.on('notification', ({ payload }: Notification) => tell(payload ?? ''))
        await taken.query(`LISTEN ${CHANNEL}`)
        tell(undefined)
      })
      .catch(lost)
  }

  return {
    follow(rotationId, changed) {
      const set = followers.get(rotationId) ?? new Set()
      followers.set(rotationId, set.add(changed))
      connect()
      return () => {
        set.delete(changed)
        if (set.size === 0 && followers.get(rotationId) === set) followers.delete(rotationId)
      }
    },
    stop() {
      stopped = true
      clearTimeout(timer)
      followers.clear()
      drop?.(undefined)
    },
  }
}
