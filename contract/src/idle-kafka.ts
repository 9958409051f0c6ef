/**
 * kafkajs 2.2.4 looks after the waiting requests of a connection every millisecond for as long as it lives, also when there are none
 * (https://github.com/tulios/kafkajs/issues/1704): some percent of a core for each process that only waits. Here it looks when there
 * are some. Whoever uses kafkajs hands its queue over, so that this file needs none.
 */

/** What is used of `kafkajs/src/network/requestQueue`. */
interface RequestQueue {
  readonly prototype: { scheduleCheckPendingRequests(this: { readonly pending: readonly unknown[] }): void }
}

const mended = new WeakSet<object>()

/** Mends the class for the whole process, once. */
export function letKafkaIdle({ prototype }: RequestQueue): void {
  if (mended.has(prototype)) return
  mended.add(prototype)
  const schedule = prototype.scheduleCheckPendingRequests
  prototype.scheduleCheckPendingRequests = function (): void {
    if (this.pending.length > 0) schedule.call(this)
  }
}
