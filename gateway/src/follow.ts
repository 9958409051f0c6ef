/** A connection that stays open is only as good as its key: whoever holds one open is told when the key has ended. */
import type { KeyId } from '@keyturn/contract'
import type { KeyCache } from './key-cache.ts'
import { forbids } from './permissions.ts'
import type { RequestInfo } from './request-info.ts'

/**
 * Calls `ended` once, at the moment at which the request would no longer be accepted: the key was deactivated, suspended or
 * compromised, has expired, or may no longer do this.
 * @returns to be called when the connection ends by itself
 */
export type Follow = (request: RequestInfo, keyId: KeyId, ended: () => void, scopes?: readonly string[]) => () => void

/** The longest that a timer can wait. */
const MOST_MS = 2 ** 31 - 1

export const createFollow =
  (cache: KeyCache, clock: () => number): Follow =>
  (request, keyId, ended, scopes = []) => {
    let timer: NodeJS.Timeout | undefined
    const look = (): void => {
      clearTimeout(timer)
      const now = clock()
      const key = cache.get(keyId)
      const left = (key?.expiresAt ?? Number.POSITIVE_INFINITY) - now
      if (key?.state !== 'active' || left <= 0 || forbids(key, request, scopes) !== undefined) {
        stop()
        ended()
      } else if (left < Number.POSITIVE_INFINITY) timer = setTimeout(look, Math.min(left, MOST_MS)).unref()
    }
    const unwatch = cache.watch(keyId, look)
    const stop = (): void => {
      clearTimeout(timer)
      unwatch()
    }
    look()
    return stop
  }
