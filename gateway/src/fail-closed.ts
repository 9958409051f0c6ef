/** Which keys a stale gateway must not decide on (G3): by scope pattern (`trade:*`, `trade:write`) or environment (`env:prod`). */
import { ENVIRONMENTS, type Environment, ScopePattern } from '@keyturn/contract'
import type { KeyEntry } from './key-cache.ts'

const SCOPE = new RegExp(ScopePattern)
const ENV = 'env:'

const isEnvironment = (value: string): value is Environment => ENVIRONMENTS.some((environment) => environment === value)

/** `trade:*` covers `trade`, `trade:write` and `trade:write:all`; `*` covers everything. */
function covers(pattern: string, scope: string): boolean {
  if (pattern === '*' || pattern === scope) return true
  if (!pattern.endsWith(':*')) return false
  const stem = pattern.slice(0, -2)
  return scope === stem || scope.startsWith(`${stem}:`)
}

/** Whether one pattern of the list can be used at all. */
export const isFailClosedPattern = (pattern: string): boolean =>
  pattern.startsWith(ENV) ? isEnvironment(pattern.slice(ENV.length)) : pattern === '*' || SCOPE.test(pattern)

/**
 * @param patterns scope patterns and `env:<environment>`
 * @throws RangeError that names a pattern that is neither
 */
export function createFailClosed(patterns: readonly string[]): (key: KeyEntry) => boolean {
  const wrong = patterns.find((pattern) => !isFailClosedPattern(pattern))
  if (wrong !== undefined)
    throw new RangeError(`"${wrong}" is neither a scope pattern such as trade:* nor env:dev, env:test, env:prod`)
  const environments = new Set(patterns.filter((p) => p.startsWith(ENV)).map((p) => p.slice(ENV.length)))
  const scopes = patterns.filter((p) => !p.startsWith(ENV))
  // A key that holds `trade:*` can do what `trade:write` protects.
  const touches = (scope: string): boolean => scopes.some((pattern) => covers(pattern, scope) || covers(scope, pattern))
  return (key) => scopes.includes('*') || environments.has(key.environment) || key.scopes.some(touches)
}
