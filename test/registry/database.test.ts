import { inspect } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../registry/database.ts'
import { migrate } from '../../registry/migrate.ts'
import { createDatabase } from '../support/servers.ts'

let url: string
let db: Database
beforeAll(async () => {
  url = await createDatabase()
  db = openDatabase(url)
  await db.query('create table numbers (id integer primary key, n integer not null)')
  await db.query('insert into numbers values (1, 0), (2, 0)')
})
afterAll(() => db.close())

const pidOf = async (database: Database): Promise<number> =>
  (await database.query<{ pid: number }>('select pg_backend_pid() as pid'))[0]?.pid ?? 0

test('G8: a connection that breaks while idle is replaced, and ends nothing', async () => {
  const one = openDatabase(url, { max: 1 })
  try {
    const pid = await pidOf(one)
    const closed = new Promise((resolve) => one.pool.once('remove', resolve))
    await db.query('select pg_terminate_backend($1)', [pid])
    await closed
    expect(await pidOf(one)).not.toBe(pid)
  } finally {
    await one.close()
  }
})

test('G8: a connection that breaks within a transaction fails it, and leaves nothing of it behind', async () => {
  const one = openDatabase(url, { max: 1 })
  try {
    const pid = await pidOf(one)
    const work = one.tx(async (tx) => {
      await tx.query('update numbers set n = n + 100 where id = 1')
      await db.query('select pg_terminate_backend($1)', [pid])
      await tx.query('select')
    })
    await expect(work).rejects.toThrow()
    expect(await one.query('select n from numbers where id = 1')).toEqual([{ n: 0 }])
  } finally {
    await one.close()
  }
})

test('work that fails is rolled back, and the connection is of use again', async () => {
  const one = openDatabase(url, { max: 1 })
  try {
    await expect(one.tx((tx) => tx.query('update numbers set n = null'))).rejects.toThrow()
    await expect(
      one.tx(async (tx) => {
        await tx.query('update numbers set n = 7')
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    expect(await one.query('select sum(n) as n from numbers')).toEqual([{ n: 0 }])
  } finally {
    await one.close()
  }
})

test('of two transactions that wait for each other both succeed in the end', async () => {
  let tries = 0
  let together = 0
  let release = (): void => {}
  const met = new Promise<void>((resolve) => {
    release = resolve
  })
  const add = (first: number, second: number) =>
    db.tx(async (tx) => {
      tries += 1
      await tx.query('update numbers set n = n + 1 where id = $1', [first])
      together += 1
      if (together === 2) release()
      await met
      await tx.query('update numbers set n = n + 1 where id = $1', [second])
    })
  await Promise.all([add(1, 2), add(2, 1)])
  expect(tries).toBe(3)
  expect(await db.query('select n from numbers order by id')).toEqual([{ n: 2 }, { n: 2 }])
})

test('large numbers come as numbers, times as dates in UTC', async () => {
  const [row] = await db.query<Record<string, unknown>>(
    `select 9007199254740991::bigint as big, '2026-03-01T00:00:00Z'::timestamptz as time, current_setting('timezone') as zone`,
  )
  expect(row).toEqual({ big: Number.MAX_SAFE_INTEGER, time: new Date('2026-03-01T00:00:00Z'), zone: 'UTC' })
})

test('G5: no error of a connection shows the password', async () => {
  const unreachable = new URL(url)
  unreachable.username = 'someone'
  unreachable.password = 'open-sesame'
  const wrongDatabase = new URL(unreachable)
  wrongDatabase.pathname = '/there-is-none'
  unreachable.port = '1'
  const shown: string[] = []
  for (const bad of [unreachable.href, wrongDatabase.href, 'postgres://someone:open-sesame@[::bad']) {
    const attempts = [
      async () => {
        const database = openDatabase(bad)
        try {
          await database.query('select')
        } finally {
          await database.close()
        }
      },
      () => migrate(bad),
    ]
    for (const attempt of attempts) {
      const error: unknown = await attempt().then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      expect(error).toBeInstanceOf(Error)
      shown.push(inspect(error, { depth: 10, showHidden: false }), JSON.stringify(error), String((error as Error).stack))
    }
  }
  expect(shown.filter((text) => text.includes('open-sesame'))).toEqual([])
})
