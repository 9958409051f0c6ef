/** What is to be done with a credential whose key has leaked. */
import { scopesTouch } from '@keyturn/contract'

export type LeakPlaybook = { readonly response: 'at-once' } | { readonly response: 'overlap'; readonly overlapMs: number }

/** The rules where no policy says otherwise. */
export interface LeakSettings {
  /** Scope patterns: a key that can do anything of these is compromised at once. */
  readonly atOnce: readonly string[]
  /** How long any other key goes on beside its successor. */
  readonly overlapMs: number
}

/** The one place where it is decided: what a policy says of leaks (`onLeak`) goes in here, before the settings. */
export function leakPlaybook(credential: { readonly scopes: readonly string[] }, settings: LeakSettings): LeakPlaybook {
  const dangerous = settings.atOnce.some((pattern) => credential.scopes.some((scope) => scopesTouch(pattern, scope)))
  return dangerous ? { response: 'at-once' } : { response: 'overlap', overlapMs: settings.overlapMs }
}
