/**
 * Whether a scope pattern covers a scope: `trade:*` covers `trade`, `trade:write` and `trade:write:all`; `*` covers everything;
 * any other covers itself.
 */
export function scopeCovers(pattern: string, scope: string): boolean {
  if (pattern === '*' || pattern === scope) return true
  if (!pattern.endsWith(':*')) return false
  const stem = pattern.slice(0, -2)
  return scope === stem || scope.startsWith(`${stem}:`)
}

/** The first scope that none of the patterns covers, if there is one. */
export const uncovered = (patterns: readonly string[], scopes: readonly string[]): string | undefined =>
  scopes.find((scope) => !patterns.some((pattern) => scopeCovers(pattern, scope)))

/** Whether two patterns have a scope in common: a key that holds `trade:*` can do what `trade:write` protects. */
export const scopesTouch = (a: string, b: string): boolean => scopeCovers(a, b) || scopeCovers(b, a)
