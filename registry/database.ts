import { setTimeout } from 'node:timers/promises'
import pg from 'pg'
import { SQL_STATES, sqlState } from './errors.ts'

export type Tx = pg.PoolClient

export interface Database {
  readonly pool: pg.Pool
  /** One statement in a transaction of its own. */
  query<R>(text: string, values?: readonly unknown[]): Promise<R[]>
  /** Work in one transaction: all of it, or nothing. Run again when PostgreSQL had to break a tie between transactions. */
  tx<T>(work: (tx: Tx) => Promise<T>): Promise<T>
  close(): Promise<void>
}

/** How long one statement may take, unless the process says less. */
const STATEMENT_MS = 30_000
/** How much later than PostgreSQL itself we give a statement up: only then does PostgreSQL not answer. */
const ANSWER_MS = 2_000
const ATTEMPTS = 5
const PAUSE_MS = 20
const INT8 = 20

/**
 * Opens a pool on the registry. Integers of 64 bits become numbers, times `Date`s.
 * @param options `statementMs`: how long one statement may take; `max`: connections at once
 */
export function openDatabase(
  url: string,
  options: { applicationName?: string; max?: number; statementMs?: number } = {},
): Database {
  const { statementMs = STATEMENT_MS } = options
  const pool = new pg.Pool({
    connectionString: url,
    application_name: options.applicationName ?? 'keyturn',
    max: options.max ?? 10,
    connectionTimeoutMillis: 10_000,
    statement_timeout: statementMs,
    // A network that swallows packets is noticed by nothing else.
    query_timeout: statementMs + ANSWER_MS,
    idle_in_transaction_session_timeout: 60_000,
    keepAlive: true,
    // The statements are short and go by indexes: parallel workers would only make the planner prefer scans.
    options: '-c timezone=UTC -c max_parallel_workers_per_gather=0',
    types: {
      getTypeParser: (oid: number, format?: 'text' | 'binary') => (oid === INT8 ? Number : pg.types.getTypeParser(oid, format)),
    },
  })
  // A connection that breaks while idle is replaced by the pool; without a listener it would end the process.
  pool.on('error', () => {})

  async function once<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    const tx = await pool.connect()
    let broken: Error | undefined
    tx.on('error', onError)
    function onError(error: Error): void {
      broken = error
    }
    try {
      await tx.query('begin')
      const result = await work(tx)
      await tx.query('commit')
      return result
    } catch (error) {
      if (isUnanswered(error)) broken = error
      else
        await tx.query('rollback').catch((failed: Error) => {
          broken = failed
        })
      throw error
    } finally {
      tx.off('error', onError)
      tx.release(broken)
    }
  }

  return {
    pool,
    async query<R>(text: string, values: readonly unknown[] = []) {
      return (await pool.query(text, [...values])).rows as R[]
    },
    async tx(work) {
      for (let attempt = 1; ; attempt++) {
        try {
          return await once(work)
        } catch (error) {
          const state = sqlState(error)
          const tie = state === SQL_STATES.serialization || state === SQL_STATES.deadlock
          if (!tie || attempt === ATTEMPTS) throw error
          await setTimeout(Math.random() * PAUSE_MS * attempt)
        }
      }
    },
    close: () => pool.end(),
  }
}

/** Nothing more comes on such a connection, no answer to a rollback either. */
const isUnanswered = (error: unknown): error is Error => error instanceof Error && error.message === 'Query read timeout'

/** The first row, in a transaction. */
export async function first<R>(tx: Tx, text: string, values: readonly unknown[] = []): Promise<R | undefined> {
  return (await tx.query(text, [...values])).rows[0] as R | undefined
}
