/** The feed is a double here: it counts how it is asked. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { News } from '../../../client/src/agent/news.ts'
import type { StoredKey } from '../../../client/src/store.ts'

const KEY: StoredKey = { keyId: '0123456789abcdef', kind: 'bearer', token: 'kt_prod_0123456789abcdef_x' }

async function feed(status = 200) {
  const asked: string[] = []
  let last = 7
  let tell: () => void = () => undefined
  const server = createServer((request, response) => {
    asked.push(`${request.url}`)
    const { searchParams } = new URL(request.url ?? '', 'http://127.0.0.1')
    const answer = () =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ events: [], after: String(last) }))
    if (searchParams.get('after') === String(last) && status === 200) tell = answer
    else answer()
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const api = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    asked,
    news: new News({ api, fetch, timeoutMs: 30_000, now: Date.now }),
    happens() {
      last += 1
      tell()
    },
  }
}

const NEVER = new AbortController().signal

test('what was told before is passed over, what comes then is heard of at once', async () => {
  const { asked, news, happens } = await feed()
  await news.wait(KEY, 60_000, NEVER)
  expect(asked).toEqual(['/v1/feed?wait=0s'])
  const waiting = news.wait(KEY, 60_000, NEVER)
  await expect.poll(() => asked.length, { timeout: 30_000 }).toBe(2)
  expect(asked[1]).toMatch(/^\/v1\/feed\?wait=\d+s&after=7$/)
  const since = Date.now()
  happens()
  await waiting
  expect(Date.now() - since).toBeLessThan(40_000)
})

test('without a feed it waits as long as it was told to, and no longer than it is wanted', async () => {
  const { asked, news } = await feed(404)
  const since = Date.now()
  await news.wait(KEY, 1_500, NEVER)
  expect(Date.now() - since).toBeGreaterThanOrEqual(1_400)
  expect(asked).toHaveLength(1)
  const ending = new AbortController()
  const waiting = news.wait(KEY, 3_600_000, ending.signal)
  ending.abort(new Error('enough'))
  await expect(waiting).rejects.toThrow('enough')
})
