/** One PostgreSQL connection that listens for changes of things of one kind, for everyone who follows one. */
import type { Notification, PoolClient } from 'pg'
import type { Log } from '../infra/log.ts'
import type { Database } from '../registry/database.ts'

const RECONNECT_MS = 500

export interface ChangeFeed {
  /** Calls back after every change of what has this id, and whenever a change may have been missed. Returns what ends it. */
  follow(id: string, changed: () => void): () => void
  stop(): void
}

/**
 * Connects when somebody follows something for the first time, and again whenever the connection is lost.
 * @param channel on which the database says what has changed, by its id
 */
export function createChangeFeed(db: Database, channel: string, log: Log): ChangeFeed {
  const followers = new Map<string, Set<() => void>>()
  /** Ends the connection that there is, or that is being made. */
  let drop: ((error: unknown) => void) | undefined
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  const tell = (id: string | undefined): void => {
    const told = id === undefined ? [...followers.values()].flatMap((each) => [...each]) : [...(followers.get(id) ?? [])]
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
      log.warn({ err: error, channel }, 'the connection that listens for changes is lost; connecting again')
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
        await taken.query(`LISTEN ${channel}`)
        tell(undefined)
      })
      .catch(lost)
  }

  return {
    follow(id, changed) {
      const set = followers.get(id) ?? new Set()
      followers.set(id, set.add(changed))
      connect()
      return () => {
        set.delete(changed)
        if (set.size === 0 && followers.get(id) === set) followers.delete(id)
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
