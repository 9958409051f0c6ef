/** What waits does nothing: a connection to Kafka on which nothing waits to be sent sets no timer. */
// @ts-expect-error: kafkajs has no types for what is inside it.
import RequestQueue from 'kafkajs/src/network/requestQueue/index.js'
import { expect, test } from 'vitest'
import '../../gateway/src/kafka.ts'

interface Queue {
  readonly throttleCheckTimeoutId: unknown
  checkPendingRequests(): void
  maybeThrottle(ms: number): void
  push(request: object): void
  destroy(): void
}

test('a connection looks after its waiting requests when there are some', () => {
  const queue = new RequestQueue({ requestTimeout: 1_000, logger: { debug: () => {} } }) as Queue
  queue.checkPendingRequests()
  expect(queue.throttleCheckTimeoutId).toBeNull()
  queue.maybeThrottle(1_000)
  queue.push({ entry: { correlationId: 1 }, sendRequest: () => {} })
  expect(queue.throttleCheckTimeoutId).not.toBeNull()
  queue.destroy()
})
