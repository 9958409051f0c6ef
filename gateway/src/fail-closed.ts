/** Which keys a stale gateway must not decide on (G3): by scope pattern (`trade:*`, `trade:write`) or environment (`env:prod`). */
import { ENVIRONMENTS, type Environment, isScope, scopesTouch } from '@keyturn/contract'
import type { KeyEntry } from './key-cache.ts'

const ENV = 'env:'

const isEnvironment = (value: string): value is Environment => ENVIRONMENTS.some((environment) => environment === value)

/** Whether one pattern of the list can be used at all. */
export const isFailClosedPattern = (pattern: string): boolean =>
  pattern.startsWith(ENV) ? isEnvironment(pattern.slice(ENV.length)) : pattern === '*' || isScope(pattern)

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
  const touches = (scope: string): boolean => scopes.some((pattern) => scopesTouch(pattern, scope))
  return (key) => scopes.includes('*') || environments.has(key.environment) || key.scopes.some(touches)
}
