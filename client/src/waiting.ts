/** Waiting that a signal ends, and that keeps no process alive. */

/** @throws the signal's reason */
export const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    }, ms)
    // Node alone has it: a program that is done must not wait for its key.
    ;(timer as { unref?: () => void }).unref?.()
    if (signal.aborted) stop()
    else signal.addEventListener('abort', stop, { once: true })
  })

/** From 80 to 120 % of it: many processes that were told the same at the same time must not come at the same time. */
export const jittered = (ms: number): number => ms * (0.8 + 0.4 * Math.random())

/** Twice as long each time, up to `longest`. @param times how often it has failed, from 1 */
export const backOff = (times: number, shortest: number, longest: number): number =>
  jittered(Math.min(longest, shortest * 2 ** Math.min(times - 1, 20)))
