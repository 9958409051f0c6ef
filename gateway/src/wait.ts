/** Waiting that can be cut short. */

/** Resolves after `ms`, or at once when the signal is aborted; never rejects. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted === true) return resolve()
    const done = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}

/** The result of `work`, or an error when it takes longer than `ms`. The work itself goes on unheard. */
export async function within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms)
  })
  work.catch(() => undefined)
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

/** How long to wait before the next try: doubles from `firstMs` to `mostMs`, spread by up to a fifth so that a fleet does not march in step. */
export const backOff = (failures: number, firstMs = 250, mostMs = 5_000): number =>
  Math.min(mostMs, firstMs * 2 ** Math.min(failures, 10)) * (0.9 + Math.random() / 5)
