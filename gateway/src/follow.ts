/** A connection that stays open is only as good as its key: whoever holds one open is told when the key has ended. */
import { uncovered } from '@keyturn/contract'
import type { KeyCache, KeyEntry } from './key-cache.ts'
import { forbids } from './permissions.ts'
import type { RequestInfo } from './request-info.ts'

/**
 * Calls `ended` once, at the moment at which the request would no longer be accepted: the key was deactivated, suspended or
 * compromised, has expired, or may no longer do this; or the session that it was shown with is over.
 * @param key as the request was accepted with it
 * @param scopes may grow while it is followed
 * @returns to be called when the connection ends by itself
 */
export type Follow = (request: RequestInfo, key: KeyEntry, ended: () => void, scopes?: readonly string[]) => () => void

/** The longest that a timer can wait. */
const MOST_MS = 2 ** 31 - 1

export const createFollow =
  (cache: KeyCache, clock: () => number): Follow =>
  (request, { keyId, sessionEndsAt = Number.POSITIVE_INFINITY, scopes: ofSession }, ended, scopes = []) => {
    const isSession = sessionEndsAt < Number.POSITIVE_INFINITY
    let timer: NodeJS.Timeout | undefined
    const look = (): void => {
      clearTimeout(timer)
      const key = cache.get(keyId)
      const left = Math.min(key?.expiresAt ?? Number.POSITIVE_INFINITY, sessionEndsAt) - clock()
      const lost = key !== undefined && isSession && uncovered(key.scopes, ofSession) !== undefined
      if (key?.state !== 'active' || left <= 0 || lost || forbids(key, request, scopes) !== undefined) {
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
