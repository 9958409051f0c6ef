/** What is to be done with a credential whose key has leaked. */
import { type Policy, scopesTouch, termsOf } from '@keyturn/contract'

export type LeakPlaybook = { readonly response: 'at-once' } | { readonly response: 'overlap'; readonly overlapMs: number }

/** The rules where no policy says otherwise. */
export interface LeakSettings {
  /** Scope patterns: a key that can do anything of these is compromised at once. */
  readonly atOnce: readonly string[]
  /** How long any other key goes on beside its successor. */
  readonly overlapMs: number
}

/** The one place where it is decided: what the credential's policy says of leaks (`onLeak`), else what its scopes may do. */
export function leakPlaybook(scopes: readonly string[], policy: Policy | null, settings: LeakSettings): LeakPlaybook {
  const said = policy === null ? undefined : termsOf(policy).onLeakMs
  const dangerous = settings.atOnce.some((pattern) => scopes.some((scope) => scopesTouch(pattern, scope)))
  const overlapMs = said ?? (dangerous ? 0 : settings.overlapMs)
  return overlapMs === 0 ? { response: 'at-once' } : { response: 'overlap', overlapMs }
}
