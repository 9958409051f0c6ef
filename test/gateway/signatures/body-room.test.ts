/** Who has to go when the bodies that are held take up all the room. */
import { setImmediate as turn } from 'node:timers/promises'
import type { RequestBody } from '@keyturn/gateway'
import { expect, test } from 'vitest'
import { BodyRoom } from '../../../gateway/src/signatures/body-room.ts'
import { TestClock } from '../support.ts'

const LIMITS = { most: 1_000, withinMs: 1_000 }

/** A room of 1,000 bytes, 400 of them for one owner. */
function open() {
  const clock = new TestClock()
  const room = new BodyRoom({ most: 1_000, mostEach: 400, clock: clock.read })
  const ends: string[] = []
  /** A body that is on its way; `arrive` says that bytes have come, `end` that these are all. */
  const begin = (owner: string, name: string, { tellsArrival = true, announced = 1_000 } = {}) => {
    let arrive: (bytes: number) => void = () => undefined
    let end: () => void = () => undefined
    const body: RequestBody = {
      tellsArrival,
      read: ({ arrived, stop }) =>
        new Promise((resolve) => {
          arrive = (bytes) => arrived?.(bytes)
          end = () => resolve(Buffer.from(name))
          stop?.addEventListener('abort', () => resolve('incomplete'))
        }),
    }
    const read = room.read(owner, body, announced, LIMITS)
    void read.then((found) => ends.push(`${name}: ${found.toString()}`))
    return { arrive: (bytes: number) => arrive(bytes), end: () => end() }
  }
  return { room, clock, begin, ends }
}

test('a body takes what has arrived of it, and leaves its place when it is whole', async () => {
  const { room, begin, ends } = open()
  const bodies = Array.from({ length: 50 }, (_, i) => begin('a', `${i}`))
  for (const { arrive } of bodies) arrive(2)
  expect(room.taken).toBe(100)
  for (const { end } of bodies) end()
  await turn()
  expect([room.taken, ends.length, ends[0]]).toEqual([0, 50, '0: 0'])
})

test('one that does not say what has arrived takes all that is announced, from the start', async () => {
  const { room, clock, begin, ends } = open()
  begin('a', 'first', { tellsArrival: false, announced: 300 })
  expect(room.taken).toBe(300)
  begin('a', 'second', { tellsArrival: false, announced: 300 })
  await turn()
  expect(ends).toEqual(['second: no-room'])
  clock.now += 1_000
  begin('a', 'third', { tellsArrival: false, announced: 300 })
  await turn()
  expect([room.taken, ends]).toEqual([300, ['second: no-room', 'first: no-room']])
})

test('where an owner has its part, the oldest of its own goes, and nobody else', async () => {
  const { clock, begin, ends } = open()
  begin('b', 'bystander').arrive(10)
  const [slow, next] = [begin('a', 'slow'), begin('a', 'next')]
  slow.arrive(300)
  next.arrive(100)
  clock.now += 1_000
  begin('a', 'new').arrive(50)
  await turn()
  expect(ends).toEqual(['slow: no-room'])
})

test('where all of it is taken, the oldest of all goes', async () => {
  const { room, clock, begin, ends } = open()
  for (const owner of ['a', 'b', 'c']) begin(owner, owner).arrive(330)
  clock.now += 1_000
  const honest = begin('d', 'd')
  honest.arrive(200)
  honest.end()
  await turn()
  expect([room.taken, ends.sort()]).toEqual([660, ['a: no-room', 'd: d']])
})

test('within a second of its start nobody has to go for a newer one: bodies that are all quick do not drive each other out', async () => {
  const { clock, begin, ends } = open()
  const bodies = ['a', 'b', 'c'].map((owner) => begin(owner, owner))
  for (const { arrive } of bodies) arrive(330)
  clock.now += 999
  begin('d', 'd').arrive(200)
  clock.now -= 3_600_000
  begin('e', 'e').arrive(200)
  for (const { end } of bodies) end()
  await turn()
  expect(ends.sort()).toEqual(['a: a', 'b: b', 'c: c', 'd: no-room', 'e: no-room'])
})
