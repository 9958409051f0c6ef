/** What a right key may not do. The key is known to be right by then, so the answer may say what is missing. */
import { isScope, type ProblemDocument, problem, uncovered } from '@keyturn/contract'
import type { KeyEntry } from './key-cache.ts'
import type { RequestInfo } from './request-info.ts'

/** @throws RangeError that names a scope that no key can have: a route that asks for it would be closed to all */
export function checkScopes(scopes: readonly string[]): readonly string[] {
  const wrong = scopes.find((scope) => !isScope(scope))
  if (wrong !== undefined) throw new RangeError(`"${wrong}" is no scope: write it like orders:read`)
  return scopes
}

/** @param scopes all of them are required */
export function forbids(key: KeyEntry, request: RequestInfo, scopes: readonly string[]): ProblemDocument | undefined {
  const { restriction } = key
  if (restriction !== undefined) {
    if (!restriction.allowsAddress(request.address)) return problem('address-not-allowed')
    if (!restriction.allowsMethod(request.method)) return problem('method-not-allowed-for-key')
  }
  const missing = uncovered(key.scopes, scopes)
  return missing === undefined ? undefined : problem('missing-scope', `This needs the scope ${missing}.`)
}
