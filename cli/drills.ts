/** The drills: what a playbook has an operator type, on a client that is made for it. Each ends in the same checklist. */

export interface Victim {
  readonly clientId: string
  readonly credentialId: string
  /** What the client was given, and somebody else has now. */
  readonly token: string
}

export interface Drill {
  readonly about: string
  /** The playbook's command that kills the key. What is secret goes to its standard input. */
  readonly kill: (victim: Victim) => { readonly args: readonly string[]; readonly input?: string }
}

export const DRILLS: Readonly<Record<string, Drill>> = {
  insider: {
    about: 'somebody inside has seen one key',
    kill: ({ credentialId }) => ({ args: ['emergency', credentialId, '--reason', 'drill: insider'] }),
  },
  leak: {
    about: 'a key lies in public code',
    kill: ({ token }) => ({ args: ['leak', 'report', '--source', 'drill'], input: `${token}\n` }),
  },
  'provider-breach': {
    about: 'all keys of a kind may be in strange hands',
    kill: ({ clientId }) => ({
      args: ['emergency', '--select', `client=${clientId}`, '--yes', '--reason', 'drill: provider breach'],
    }),
  },
}
