/** Key states and what may follow each: NIST SP 800-57 part 1 rev. 5, section 7. */
export const KEY_STATES = ['pre-activation', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed'] as const
export type KeyState = (typeof KEY_STATES)[number]

/**
 * The legal transitions. NIST does not have three of them: `deactivated → active` is the reinstatement of a roll-back, in which
 * the key was switched off by Keyturn itself a moment ago; `pre-activation → suspended` and `→ deactivated` keep a key that was
 * never active under the same operations as any other. NIST's `active → destroyed` and `suspended → destroyed` are left out:
 * a key is switched off before it is destroyed. Compromised is final (G9).
 */
export const KEY_TRANSITIONS: { readonly [From in KeyState]: readonly KeyState[] } = {
  'pre-activation': ['active', 'suspended', 'deactivated', 'compromised', 'destroyed'],
  active: ['suspended', 'deactivated', 'compromised'],
  suspended: ['active', 'deactivated', 'compromised'],
  deactivated: ['active', 'compromised', 'destroyed'],
  compromised: ['destroyed'],
  destroyed: [],
}

export const mayFollow = (from: KeyState, to: KeyState): boolean => KEY_TRANSITIONS[from].includes(to)
